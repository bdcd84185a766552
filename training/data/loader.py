"""`VideoLoader`: batches of a `VideoCollection`, endless, the same for any number of workers, resumable anywhere."""

import logging
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from .collate import collate_clips, collate_multimodal, encode_texts
from .collection import VideoCollection
from .samplers import FunctionSampler
from .skips import BadClipWatch, Skip, SkipLog
from .tasks import TaskResult

logger = logging.getLogger(__name__)


class VideoLoader:
    """
    Iterates over batches of clips, epoch after epoch without end, with the clips of a task carried over to the next
    batch so that all batches are equally large.

    Each rank does every `world_size`-th task. The batches of a rank are a pure function of the collection, its seed
    and the position, whatever the number of workers. `iter(loader)` goes on where the loader stands.

    A batch is a dict: `video` (B, T, 3, H, W) uint8, `image` (B, 3, H', W') uint8, `audio` (B, samples) int16,
    `text` (B, L) long padded with 0, `has_audio` and `has_text` (B,) bool, `start` (B,) float64 seconds, `path` list
    of str, `skipped` int, the skips so far, and `stream_state`, the position after the batch (what
    `load_state_dict` takes: integers only, and for a streamed dataset that dataset's own state).

    Args:
        collection: The videos.
        batch_size: Clips of a batch.
        shuffle: Permute segments and clips; `False` gives them in the order of the files.
        epochs: Stop after so many, with a smaller last batch; `None` goes on for ever. Ranks then may get different
            numbers of batches.
        num_workers: Processes that decode; 0 decodes here.
        rank, world_size: Which of how many processes this is; `None` asks torch.distributed or the launcher.
        tokenizer_fn: `(text, max_len) -> LongTensor`; `None`: bytes, byte b as 3 + b.
        max_text_length: Most tokens of a clip's text, `None`: the collection's. What is longer is cut, which `skips`
            counts with path, time and reason.
        seed: Of the order; `None`: the collection's.
        prefetch_factor: Tasks, of many clips each, that a worker does in advance.
        pin_memory: Give tensors in page-locked memory, from which a GPU copies without waiting.
        multiprocessing_context: How workers are started, as in `torch.utils.data.DataLoader`.

    Attributes:
        skips: [`SkipLog`] of what was lost, with path, time and reason.

    Raises:
        NoUsableClipsError, TooManyBadClipsError: while iterating, when too little can be read.

    Example:

    ```python
    >>> from omnilatent.training.data import VideoCollection, VideoLoader

    >>> loader = VideoLoader(VideoCollection.from_folder("videos"), batch_size=4, num_workers=2)
    >>> batch = next(iter(loader))
    >>> loader.load_state_dict(batch["stream_state"])  # the next batch is the one after
    ```
    """

    def __init__(
        self,
        collection: VideoCollection,
        batch_size: int,
        *,
        shuffle: bool = True,
        epochs: int | None = None,
        num_workers: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        tokenizer_fn: Callable[[str, int], torch.Tensor] | None = None,
        max_text_length: int | None = None,
        seed: int | None = None,
        prefetch_factor: int = 1,
        pin_memory: bool = False,
        multiprocessing_context: str | None = None,
    ):
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
        own_rank, own_world_size = _process_place()
        self.rank = own_rank if rank is None else rank
        self.world_size = own_world_size if world_size is None else world_size
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"`rank` must lie in 0..{self.world_size - 1}, got {self.rank}.")
        self.collection = collection
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.epochs = epochs
        self.num_workers = num_workers
        self.tokenizer_fn = tokenizer_fn
        self.max_text_length = collection.spec.max_text_length if max_text_length is None else max_text_length
        self.seed = collection.seed if seed is None else seed
        self.prefetch_factor = prefetch_factor
        self.pin_memory = pin_memory
        self.multiprocessing_context = multiprocessing_context
        self.skips = SkipLog()
        self._position = {**collection.start(), "clip": 0}

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch: `epoch`, `task` in it, `clip` in that, and what it is valid for."""
        return {**self._position, **self._valid_for()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Go to a position.

        Raises:
            ValueError: for a position in another collection, another order or on another number of ranks, where it
                would repeat some clips and leave out others.
        """
        for name, value in self._valid_for().items():
            if state.get(name) != value:
                raise ValueError(
                    f"Cannot resume: the position was saved with {name}={state.get(name)}, this loader has {value}."
                )
        self._position = {name: value for name, value in state.items() if name not in self._valid_for()}

    def _valid_for(self):
        return {
            "seed": self.seed,
            "shuffle": int(self.shuffle),
            "planned_clips": self.collection.num_clips or 0,
            "rank": self.rank,
            "world_size": self.world_size,
        }

    def __iter__(self) -> Iterator[dict[str, Any]]:
        clips = _ClipQueue(self._position["clip"])
        watch = BadClipWatch(self.collection.max_bad_fraction, self.collection.judged_clips)
        for position, result in self._results():
            self.skips.extend(result.skips)
            self.collection.tell(result.skips)
            watch.add(len(result), sum(skip.clips for skip in result.skips), self.skips)
            clips.add(position, self.collection.after(position), result)
            while len(clips) >= self.batch_size:
                yield self._batch(clips, self.batch_size)
        if len(clips):
            yield self._batch(clips, len(clips))

    def _results(self):
        """This rank's tasks with their results, in order."""
        issued = deque()
        start = {name: value for name, value in self._position.items() if name != "clip"}

        def own_tasks():
            for task in self.collection.tasks(start, self.shuffle, self.seed):
                if self.epochs is not None and task.position["epoch"] >= self.epochs:
                    return
                if task.number % self.world_size == self.rank:
                    issued.append(task.position)
                    yield task

        results = DataLoader(
            self.collection.decoder(),
            batch_size=None,
            sampler=FunctionSampler(own_tasks),
            num_workers=self.num_workers,
            prefetch_factor=self.prefetch_factor if self.num_workers else None,
            collate_fn=_as_is,
            # an iterator draws a seed for its workers: without a generator of its own, from the global one
            generator=torch.Generator(),
            multiprocessing_context=self.multiprocessing_context if self.num_workers else None,
        )
        with _light_workers(self.multiprocessing_context):
            results = iter(results)
        for result in results:
            yield issued.popleft(), result

    def _batch(self, clips, size):
        columns, self._position = clips.take(size)
        text, cut = encode_texts(columns["text"], self.tokenizer_fn, self.max_text_length)
        self._note_cut(columns, cut)
        batch = collate_clips(columns, text)
        if self.pin_memory:
            batch = {name: value.pin_memory() if torch.is_tensor(value) else value for name, value in batch.items()}
        return {**batch, "skipped": self.skips.total, "stream_state": self.state_dict()}

    def _note_cut(self, columns, cut):
        reason = f"text cut to {self.max_text_length} tokens"
        skips = [Skip(columns["path"][i], float(columns["start"][i]), 0, reason) for i in cut]
        if skips and reason not in self.skips.reasons:
            logger.warning("%s at %.2f s: %s; more of them are only counted, in `skips`.", *skips[0][:2], reason)
        self.skips.extend(skips)


@contextmanager
def _light_workers(context):
    """Spawned workers decode and do nothing else: they need not load what `import omnilatent` registers."""
    if not isinstance(context, str):
        context = (multiprocessing if context is None else context).get_start_method(allow_none=True)
    if context != "spawn":  # forked ones have it loaded, and a fork server would hand it on to processes of others
        yield
        return
    os.environ["OMNILATENT_NO_REGISTRATION"] = "1"
    try:
        yield
    finally:
        os.environ.pop("OMNILATENT_NO_REGISTRATION", None)


def _as_is(result):
    return result


class _ClipQueue:
    """
    Clips in order, with the position before each.

    Args:
        consumed: Clips of the first task that were used before.
    """

    def __init__(self, consumed: int):
        self._consumed = consumed  # of the task in front
        self._tasks: deque[tuple[dict, TaskResult]] = deque()
        self._end: dict[str, Any] = {}  # position after all tasks

    def __len__(self):
        return sum(len(result) for _, result in self._tasks) - self._consumed

    def add(self, position: dict, after: dict, result: TaskResult) -> None:
        self._tasks.append((position, result))
        self._end = after
        self._drop_used()

    def take(self, size: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """The columns of the next clips, and the position after them."""
        parts = []
        while size > 0:
            _, result = self._tasks[0]
            stop = min(len(result), self._consumed + size)
            parts.append({name: column[self._consumed : stop] for name, column in result.columns.items()})
            size -= stop - self._consumed
            self._consumed = stop
            self._drop_used()
        position = self._tasks[0][0] if self._tasks else self._end
        return {name: _join([part[name] for part in parts]) for name in parts[0]}, {
            **position,
            "clip": self._consumed,
        }

    def _drop_used(self):
        while self._tasks and self._consumed >= len(self._tasks[0][1]):
            self._consumed -= len(self._tasks.popleft()[1])


def _join(parts):
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else list(chain(*parts))


def _process_place():
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def build_dataloader(
    data: VideoCollection | Dataset | str | os.PathLike,
    batch_size: int = 4,
    *,
    shuffle: bool = True,
    num_workers: int = 0,
    seed: int | None = None,
    **keywords,
) -> Iterable[dict[str, Any]]:
    """
    A loader for whatever holds the training data.

    Args:
        data: A [`VideoCollection`] or a folder of videos, which are streamed by a [`VideoLoader`]; or a map-style
            dataset whose items are dicts of any of "text", "audio", "image" and "video", batched by
            [`collate_multimodal`] in a `torch.utils.data.DataLoader`.
        batch_size: Clips or items of a batch.
        shuffle: Permute the order.
        num_workers: Processes that load.
        seed: Of the order; `None`: that of a `VideoCollection`, 0 for other data.
        keywords: Further arguments of the loader that is made.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent.training.data import build_dataloader

    >>> items = [{"text": torch.tensor([5, 6])}, {"text": torch.tensor([7])}]
    >>> next(iter(build_dataloader(items, batch_size=2, shuffle=False)))["text"]
    tensor([[5, 6],
            [7, 0]])
    ```
    """
    if isinstance(data, str | os.PathLike):
        data = VideoCollection.from_folder(data)
    if isinstance(data, VideoCollection):
        return VideoLoader(data, batch_size, shuffle=shuffle, num_workers=num_workers, seed=seed, **keywords)
    keywords.setdefault("collate_fn", collate_multimodal)
    generator = torch.Generator().manual_seed(0 if seed is None else seed)
    return DataLoader(data, batch_size, shuffle=shuffle, num_workers=num_workers, generator=generator, **keywords)
