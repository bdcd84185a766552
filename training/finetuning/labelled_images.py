"""Images with labels as samples for a classifier: decoded, augmented, and without those that are broken.

A sample is a dict of `pixel_values` (C, H, W), `labels`, `bad`, the broken ones that were passed over on the way to it,
and in training `seed`, from which everything random in it is drawn.
"""

import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import datasets
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from ..data.bad_samples import BadSample, BadSampleError, BadSampleLog, TooManyBadSamplesError
from ..data.sample_pictures import find_picture, open_picture
from .image_augmentation import drawing_from
from .image_tables import ImageTable

logger = logging.getLogger(__name__)

SEEDS = 2**63


class LabelledImages(Dataset):
    """
    The images of a table, by number. In the place of a broken one stands the next that is not: a sample is a function
    of its number and the epoch alone, whatever process makes it.

    Args:
        table: Not a stream.
        transform: Picture -> (C, H, W).
        seed: Of what is random in `transform`. `None`: nothing is.
    """

    def __init__(self, table: ImageTable, transform: Callable[[Image.Image], torch.Tensor], seed: int | None = None):
        self.table, self.transform, self.seed, self.epoch = table, transform, seed, 0

    def __len__(self) -> int:
        return len(self.table.rows)

    def set_epoch(self, epoch: int) -> None:
        """Draw other augmentations."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict:
        bad = []
        for place in (*range(index, len(self)), *range(index)):
            row = self.table.rows[place]
            try:
                picture, label = read_row(row, self.table)
            except BadSampleError as error:
                bad.append(BadSample(_name(row, self.table), f"row {place}", str(error)))
                continue
            seed = None if self.seed is None else hash((self.seed, self.epoch, index)) % SEEDS
            return make_sample(picture, label, self.transform, seed, bad)
        raise TooManyBadSamplesError(f"None of the {len(self)} images could be read:\n{BadSampleLog(bad)}")

    def without_broken(self) -> tuple["LabelledImages", BadSampleLog]:
        """The same without broken images, each of which was decoded once to find them.

        Raises:
            TooManyBadSamplesError: where none is left.
        """
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as threads:
            reasons = list(threads.map(self._why_unreadable, range(len(self))))
        bad = BadSampleLog(one for one in reasons if one is not None)
        bad.check(reasons.count(None), max_bad_fraction=1.0)
        rows = self.table.rows.select([place for place, reason in enumerate(reasons) if reason is None])
        table = ImageTable(**{**vars(self.table), "rows": rows})
        return LabelledImages(table, self.transform, self.seed), bad

    def _why_unreadable(self, place):
        row = self.table.rows[place]
        try:
            read_row(row, self.table)
        except BadSampleError as error:
            return BadSample(_name(row, self.table), f"row {place}", str(error))


class LabelledImageStream(IterableDataset):
    """
    The images of a stream as they come, without broken ones.

    Args:
        table: A stream; its shards are shared out among the workers of a loader.
        transform: Picture -> (C, H, W).
        seed: Of the order and of what is random in `transform`; the stream then begins again at its end, in another
            order. `None`: nothing is random, and the stream ends.
        buffer_size: Images among which the next is drawn; more is closer to a real shuffle and takes more memory.
    """

    def __init__(
        self,
        table: ImageTable,
        transform: Callable[[Image.Image], torch.Tensor],
        seed: int | None = None,
        buffer_size: int = 1000,
    ):
        self.table, self.transform, self.seed = table, transform, seed
        self.rows = table.rows if seed is None else table.rows.shuffle(seed=seed, buffer_size=buffer_size)

    def __iter__(self) -> Iterator[dict]:
        worker = get_worker_info()
        worker = 0 if worker is None else worker.id
        epoch = 0
        while True:
            self.rows.set_epoch(epoch)
            good, bad, held = 0, [], None
            for place, row in enumerate(self.rows):
                try:
                    picture, label = read_row(row, self.table)
                except BadSampleError as error:
                    bad.append(BadSample(_name(row, self.table), "in the stream", str(error)))
                    continue
                if held is not None:  # one waits, to take along the broken ones at the stream's end
                    yield held
                seed = None if self.seed is None else hash((self.seed, epoch, worker, place)) % SEEDS
                held, bad, good = make_sample(picture, label, self.transform, seed, bad), [], good + 1
            if good == 0 and bad:
                raise TooManyBadSamplesError(f"No image of {self.table.title} could be read:\n{BadSampleLog(bad)}")
            if good == 0:  # more workers than shards
                return
            held["bad"].extend(bad)
            yield held
            if self.seed is None:
                return
            epoch += 1


def read_row(row: dict, table: ImageTable) -> tuple[Image.Image, int]:
    """
    The picture in RGB, and the number of its label.

    Raises:
        BadSampleError: for a picture that cannot be decoded to its end, or a label that is none.
    """
    label = row[table.label_column]
    if isinstance(label, str):
        label = table.classes.index(label) if label in table.classes else label
    elif str(label) in table.classes and not isinstance(table.rows.features[table.label_column], datasets.ClassLabel):
        label = table.classes.index(str(label))
    if not isinstance(label, int) or not 0 <= label < len(table.classes):
        raise BadSampleError(f"unknown label {label!r}: expected one of {len(table.classes)}")
    try:
        picture = datasets.Image().decode_example(row[table.image_column])
    except Exception as error:  # decoders have errors of many types for broken files
        raise BadSampleError(f"the picture cannot be read: {error}") from None
    return open_picture(find_picture(picture, None)), label


def make_sample(picture, label: int, transform, seed: int | None, bad: list[BadSample]) -> dict:
    """A sample; what is random in the transform depends on the seed alone."""
    if seed is None:
        return {"pixel_values": transform(picture), "labels": label, "bad": bad}
    with drawing_from(seed):
        return {"pixel_values": transform(picture), "labels": label, "bad": bad, "seed": seed}


def _name(row, table):
    value = row[table.image_column]
    path = value.get("path") if isinstance(value, dict) else value if isinstance(value, str) else None
    return path or table.title
