"""`MultiModalDataset`: samples of a picture and words, from JSON files or any table of `datasets`, or as a stream."""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

from torch.utils.data import Dataset, IterableDataset

from .bad_samples import BadSample, BadSampleError, BadSampleLog, warn_of_first
from .sample_pictures import open_picture
from .sample_readers import SampleReader
from .sample_tables import SampleTable

logger = logging.getLogger(__name__)


class MultiModalDataset(Dataset):
    """
    Samples of a picture, a text and a label, or several labels. Subclasses read what other tasks need.

    What is wrong with a single sample (a missing picture or one that cannot be decoded, an empty text, an unknown
    label) leaves that sample out: `bad.total` counts them, `bad.examples` tell file, line and value. What is wrong
    with the table as a whole (a column that is nowhere, a broken file) is a `SchemaError` at once.

    Args:
        source: Path of a JSON file (a list of objects, or one a line), a list of dicts, or a `datasets.Dataset`.
        columns: Names of columns that are not called as here, like `{"text": "sentence"}`.
        image_folder: What paths of pictures are relative to; of a JSON file by default its own folder.
        check_pictures: Decode every picture once at the beginning. Without it, one that cannot be decoded is an error
            when its turn comes.
        max_bad_fraction: Largest tolerated share of samples that are left out, 0 to 1.
        known: The labels that there are, in the order of their numbers. `None`: those of the data, the commonest
            first.
        unknown: What to do with a sample of another label: "skip" it, as there is nothing to learn from it, or "keep"
            it, to count as wrong in an evaluation.

    Raises:
        SchemaError: for a table that lacks a column, or a broken file.
        TooManyBadSamplesError: beyond `max_bad_fraction`, or where no sample is left.

    Example:

    ```python
    >>> from omnilatent.training.data import MultiModalDataset, make_sample_data

    >>> paths = make_sample_data("data/sample", num_train=20, num_val=10)
    >>> data = MultiModalDataset(paths["train"])
    >>> len(data), sorted(data[0]), data[0]["image"].size
    (20, ['image', 'label', 'text'], (96, 96))
    ```
    """

    reader_class: ClassVar[type[SampleReader]] = SampleReader

    def __init__(
        self,
        source: str | os.PathLike | Sequence[Mapping] | Dataset,
        columns: Mapping[str, str] | None = None,
        image_folder: str | os.PathLike | None = None,
        check_pictures: bool = True,
        max_bad_fraction: float = 0.5,
        known: Sequence[str] | None = None,
        unknown: str = "skip",
    ):
        table, reader = _open(self.reader_class, source, columns, image_folder, known, unknown)
        if hasattr(table, "stream") and not hasattr(table.stream, "__len__"):
            raise TypeError(f"This is a stream: read it by {type(self).__name__}.stream(...).")
        self.bad = BadSampleLog()
        self._leave_out(table.bad)
        self.samples: list[dict] = []  # with pictures that are found but not opened
        self._places: list[tuple[str, int | str]] = []
        for record in table.records:
            try:
                sample = reader(record)
            except BadSampleError as error:
                self._leave_out([BadSample(record.file, record.line, str(error))])
            else:
                self.samples.append(sample)
                self._places.append((record.file, record.line))
        if check_pictures:
            self._leave_out_broken()
        if self.bad.total:
            whole = self.bad.total + len(self.samples)
            logger.warning("Left out %d of %d samples of %s:\n%s", self.bad.total, whole, table.title, self.bad)
        self.bad.check(len(self.samples), max_bad_fraction)
        self.known = None if known is None else list(known)
        self.finish()

    def finish(self) -> None:
        """What is made of all samples together: here the labels."""
        self.known = self.known or by_frequency(
            label for sample in self.samples for label in _several(sample["label"])
        )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict:
        """The sample, its picture decoded: upright, in RGB."""
        sample = self.samples[index]
        try:
            return {**sample, "image": open_picture(sample["image"])}
        except BadSampleError as error:
            raise BadSampleError(str(BadSample(*self._places[index], str(error)))) from None

    @classmethod
    def stream(
        cls,
        source,
        columns: Mapping[str, str] | None = None,
        image_folder: str | os.PathLike | None = None,
        known: Sequence[str] | None = None,
        unknown: str = "skip",
    ) -> "SampleStream":
        """
        The samples of a `datasets.IterableDataset` as they come; nothing is held. Arguments as of the class.

        Example:

        ```python
        >>> from datasets import Dataset
        >>> from PIL import Image
        >>> from omnilatent.training.data import CaptioningDataset

        >>> table = Dataset.from_dict({"picture": [Image.new("RGB", (8, 8))] * 3, "caption": ["a", "", "c"]})
        >>> stream = CaptioningDataset.stream(table.to_iterable_dataset(), columns={"image": "picture"})
        >>> [sample["captions"] for sample in stream], stream.bad.total
        ([['a'], ['c']], 1)
        ```
        """
        table, reader = _open(cls.reader_class, source, columns, image_folder, known, unknown)
        return SampleStream(table, reader)

    def _leave_out(self, bad):
        for one in bad:
            self.bad.add(one)
            logger.debug("Left out %s", one)

    def _leave_out_broken(self):
        # Pillow decodes without the interpreter's lock; a decoded picture is let go at once
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as threads:
            reasons = list(threads.map(_why_unreadable, (sample["image"] for sample in self.samples)))
        kept = [number for number, reason in enumerate(reasons) if reason is None]
        self._leave_out(
            BadSample(*place, reason) for place, reason in zip(self._places, reasons) if reason is not None
        )
        self.samples = [self.samples[number] for number in kept]
        self._places = [self._places[number] for number in kept]


class SampleStream(IterableDataset):
    """
    Samples of a stream of records, bad ones left out and counted in `bad` of the process that reads; made by
    [`MultiModalDataset.stream`]. Its state is that of the `datasets.IterableDataset`.
    """

    def __init__(self, table: SampleTable, reader: SampleReader):
        self._table, self._reader = table, reader
        self.bad = BadSampleLog()

    def __iter__(self) -> Iterator[dict]:
        for record in self._table.records:
            try:
                sample = self._reader(record)
                yield {**sample, "image": open_picture(sample["image"])}
            except BadSampleError as error:
                bad = BadSample(record.file, record.line, str(error))
                self.bad.add(bad)
                warn_of_first(logger, self.bad.total, "Left out %s", bad)

    def set_epoch(self, epoch: int) -> None:
        """A shuffled stream takes another order."""
        self._table.stream.set_epoch(epoch)

    def state_dict(self) -> dict:
        return self._table.stream.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self._table.stream.load_state_dict(state)


def by_frequency(values) -> list[str]:
    """Different values, the commonest first; equally common ones in the order of the alphabet."""
    counts = Counter(values)
    return sorted(counts, key=lambda value: (-counts[value], value))


def _open(reader_class, source, columns, image_folder, known, unknown):
    table = SampleTable(source)
    folder = table.folder if image_folder is None else Path(image_folder)
    return table, reader_class(table.names, table.title, columns, folder, table.class_names, known, unknown)


def _why_unreadable(picture):
    try:
        open_picture(picture)
    except BadSampleError as error:
        return str(error)
    return None


def _several(label):
    return label if isinstance(label, list) else [label]
