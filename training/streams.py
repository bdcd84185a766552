"""Endless streams of batches that can be stopped and resumed anywhere: what a Trainer reads."""

import random
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Protocol

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler, get_worker_info

from ..configuration.modalities import MODALITIES, VIDEO
from .batches import count_frames, halves, rows_present
from .data.samplers import FunctionSampler

STREAM_STATE = "stream_state"  # key of a batch: the position after it
_PROBED_BATCHES = 8
# of a DataLoader that becomes a DatasetStream; `drop_last` has no meaning where no batch is the last
_KEPT_SETTINGS = (
    *("num_workers", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context"),
    *("prefetch_factor", "persistent_workers"),
)


class BatchStream(Protocol):
    """Batches of one rank without end. `VideoLoader` is one as well."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """From the current position on; each batch carries the position after it under "stream_state"."""

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch, with "epoch" in it."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position."""


class DatasetStream:
    """
    Endless batches of a map-style dataset. The order is a pure function of (seed, epoch); a batch may begin in one
    epoch and end in the next, so all are equally large, and ranks take turns batch by batch.

    Args:
        dataset: Has `__len__` and `__getitem__`.
        batch_size: Items of a batch of this rank.
        collate_fn: Makes a batch of a list of items.
        shuffle: Permute every epoch anew; `False`: in the dataset's own order.
        seed: Of the order, and of what workers draw.
        rank, world_size: Which of how many processes this is.
        loader_settings: Further arguments of `torch.utils.data.DataLoader`, such as `num_workers`.

    Raises:
        ValueError: for an empty dataset.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent.training.data import collate_multimodal
    >>> from omnilatent.training.streams import DatasetStream

    >>> items = [{"text": torch.tensor([number + 5])} for number in range(3)]
    >>> stream = DatasetStream(items, 2, collate_multimodal, shuffle=False)
    >>> batches = iter(stream)
    >>> [next(batches)["text"].flatten().tolist() for _ in range(3)]
    [[5, 6], [7, 5], [6, 7]]
    ```
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        collate_fn: Callable,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        **loader_settings,
    ):
        if len(dataset) == 0:
            raise ValueError("The training dataset is empty.")
        self.dataset, self.batch_size, self.collate_fn = dataset, batch_size, collate_fn
        self.shuffle, self.seed, self.rank, self.world_size = shuffle, seed, rank, world_size
        self.loader_settings = loader_settings
        self._samples = 0  # read by all ranks together

    def state_dict(self) -> dict[str, Any]:
        epoch, sample = divmod(self._samples, len(self.dataset))
        return {"epoch": epoch, "sample": sample}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._samples = state["epoch"] * len(self.dataset) + state["sample"]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        loader = DataLoader(
            _SeededItems(self.dataset, self.seed),
            batch_sampler=FunctionSampler(self._places),
            collate_fn=self.collate_fn,
            generator=torch.Generator(),  # workers would draw their seed from the global one otherwise
            **self.loader_settings,
        )
        for batch in loader:
            self._samples += self.batch_size * self.world_size
            yield {**batch, STREAM_STATE: self.state_dict()}

    def _places(self) -> Iterator[list[tuple[int, int]]]:
        """For each batch of this rank the (place in the endless order, index into the dataset) of its items."""
        start = self._samples + self.rank * self.batch_size
        epoch, order = None, None
        while True:
            batch = []
            for place in range(start, start + self.batch_size):
                wanted, sample = divmod(place, len(self.dataset))
                if wanted != epoch:
                    epoch, order = wanted, self._order(wanted)
                batch.append((place, int(order[sample])))
            yield batch
            start += self.batch_size * self.world_size

    def _order(self, epoch):
        if not self.shuffle:
            return np.arange(len(self.dataset))
        return np.random.default_rng((self.seed, epoch)).permutation(len(self.dataset))


class LoaderStream:
    """
    Any iterable of batches, such as a DataLoader with a sampler of its own or over an `IterableDataset`, read again and
    again; ranks take turns batch by batch. A position is found again by reading up to it, so resuming is as exact as
    the iterable is repeatable; each pass starts torch's generator from (seed, epoch), and calls `set_epoch` on what
    has it.

    Args:
        batches: The iterable.
        seed, rank, world_size: As in [`DatasetStream`].
    """

    def __init__(self, batches, seed: int = 0, rank: int = 0, world_size: int = 1):
        self.batches, self.seed, self.rank, self.world_size = batches, seed, rank, world_size
        self._epoch, self._batch = 0, 0

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self._epoch, "batch": self._batch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._epoch, self._batch = state["epoch"], state["batch"]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            batches = self._pass()
            with torch.random.fork_rng(devices=[]):
                found = sum(1 for _ in islice(batches, self._batch))
            while len(turn := list(islice(batches, self.world_size))) == self.world_size:
                found += self.world_size
                self._batch += self.world_size
                yield {**turn[self.rank], STREAM_STATE: self.state_dict()}
            if found < self.world_size:
                raise ValueError(f"A pass over the data gives fewer batches than there are ranks, {self.world_size}.")
            self._epoch, self._batch = self._epoch + 1, 0

    def _pass(self):
        for part in (self.batches, getattr(self.batches, "dataset", None), getattr(self.batches, "sampler", None)):
            if hasattr(part, "set_epoch"):
                part.set_epoch(self._epoch)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + self._epoch)
            batches = iter(self.batches)
            first = list(islice(batches, 1))  # samplers draw their order at the first batch
        yield from first
        yield from batches


def make_stream(
    data,
    batch_size: int,
    collate_fn: Callable,
    seed: int,
    rank: int,
    world_size: int,
    text_settings: Mapping[str, Any] | None = None,
    **loader_settings,
):
    """
    A stream of whatever was given as training data.

    Args:
        data: A stream already (`VideoLoader`), a `VideoCollection`, a map-style dataset, an `IterableDataset`, or a
            DataLoader, whose batch size, collate function, workers and order are kept.
        batch_size, collate_fn, loader_settings: For data that is not batched yet.
        seed: Of the order; also that of a `VideoCollection`, whose own seed is for loaders made by hand. A stream or a
            DataLoader with a generator keeps its own.
        text_settings: `tokenizer_fn` and `max_text_length` of a `VideoCollection`.
    """
    from .data import VideoCollection, VideoLoader

    place = {"rank": rank, "world_size": world_size}
    if isinstance(data, VideoCollection):
        settings = _for_collection(data, loader_settings, text_settings)
        return VideoLoader(data, batch_size, seed=seed, **place, **settings)
    if isinstance(data, VideoLoader | DatasetStream | LoaderStream):
        return data
    if isinstance(data, DataLoader) and _has_stock_sampler(data):
        shuffle = isinstance(data.sampler, RandomSampler)
        seed = seed if data.generator is None else data.generator.initial_seed()
        settings = {name: getattr(data, name) for name in _KEPT_SETTINGS}
        return DatasetStream(data.dataset, data.batch_size, data.collate_fn, shuffle, seed, **place, **settings)
    if isinstance(data, IterableDataset | datasets.IterableDataset):
        data = DataLoader(data, batch_size, collate_fn=collate_fn, **loader_settings)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return DatasetStream(data, batch_size, collate_fn, True, seed, **place, **loader_settings)
    if isinstance(data, Iterator):
        raise ValueError(
            f"{type(data).__name__} can be read only once: give something that begins anew at each `iter`."
        )
    return LoaderStream(data, seed, **place)


def find_views(stream, config) -> frozenset[str]:
    """The views that this rank's stream has, see `pairs.VIEWS`: its collection's word for it, or its first batches'.

    The halves of a video count if they consist of whole tubes.
    """
    collection = getattr(stream, "collection", None)
    if collection is not None:
        return frozenset(collection.modalities) | halves(collection.spec.num_frames, config)
    state, found = stream.state_dict(), set()
    for batch in islice(stream, _PROBED_BATCHES):
        found |= {name for name, rows in rows_present(batch, config).items() if rows.any()}
        if VIDEO in found:
            found |= halves(count_frames(batch[VIDEO]), config)
        if found >= set(MODALITIES):
            break
    stream.load_state_dict(state)
    return frozenset(found)


def items_per_pass(stream) -> int | None:
    """Clips or items of a pass over the data of all ranks, as far as they can be told."""
    if isinstance(stream, DatasetStream):
        return len(stream.dataset)
    collection = getattr(stream, "collection", None)
    return None if collection is None else collection.num_clips


def one_pass(
    data,
    batch_size: int,
    collate_fn: Callable,
    rank: int = 0,
    world_size: int = 1,
    text_settings: Mapping[str, Any] | None = None,
    **loader_settings,
):
    """
    This rank's batches of one pass in the data's own order, for evaluation.

    Args:
        data: A `VideoCollection`, a `VideoLoader` with `epochs`, a map-style dataset, or an iterable of batches.
        batch_size, collate_fn, loader_settings: For data that is not batched yet.
        text_settings: As in `make_stream`.

    Raises:
        ValueError: for a `VideoLoader` without end.
    """
    from .data import VideoCollection, VideoLoader

    if isinstance(data, VideoCollection):
        settings = _for_collection(data, loader_settings, text_settings)
        place = {"rank": rank, "world_size": world_size}
        data = VideoLoader(data, batch_size, shuffle=False, epochs=1, **place, **settings)
    if isinstance(data, VideoLoader):
        if data.epochs is None:
            raise ValueError("A VideoLoader without `epochs` never ends: give epochs=1 for evaluation.")
        start = data.state_dict()
        try:
            yield from data
        finally:
            data.load_state_dict(start)  # the next evaluation reads the same
    elif hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        starts = range(rank * batch_size, len(data), world_size * batch_size)
        places = [range(start, min(start + batch_size, len(data))) for start in starts]
        yield from DataLoader(data, batch_sampler=places, collate_fn=collate_fn, **loader_settings)
    else:
        yield from islice(data, rank, None, world_size)


def _for_collection(collection, loader_settings, text_settings) -> dict[str, Any]:
    """Arguments of a `VideoLoader`. The model may take less text than the collection gives."""
    settings = {**loader_settings, **(text_settings or {})}
    if settings.get("prefetch_factor", 0) is None:
        settings.pop("prefetch_factor")  # its default is another than DataLoader's
    longest = collection.spec.max_text_length
    return {**settings, "max_text_length": min(longest, settings.get("max_text_length", longest))}


def _has_stock_sampler(loader) -> bool:
    if isinstance(loader.dataset, IterableDataset) or loader.batch_size is None:
        return False
    if type(loader.sampler) is RandomSampler:
        return not loader.sampler.replacement and loader.sampler.num_samples == len(loader.dataset)
    return type(loader.sampler) is SequentialSampler


class _SeededItems:
    """In a worker, whatever an item draws at random follows from its place in the order, and resumes with it.

    Without workers it draws from the global generators, which the Trainer saves and restores.
    """

    def __init__(self, dataset, seed):
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, place_and_index):
        place, index = place_and_index
        if get_worker_info() is not None:
            (word,) = np.random.SeedSequence((self.seed, place)).generate_state(1)
            torch.manual_seed(int(word))
            random.seed(int(word))
            np.random.seed(word)
        return self.dataset[index]
