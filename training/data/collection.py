"""`VideoCollection`: videos from a folder or a `datasets` table, as an endless order of tasks."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .bad_samples import warn_of_first
from .clips import ClipSpec
from .rows import Row, find_columns, make_row, rows_of_folder, undecoded, video_and_words
from .scan import scan_folder
from .skips import NoUsableClipsError, Skip, SkipLog, TooManyBadClipsError, describe
from .streaming import StreamedRows
from .tasks import Segment, Task, TaskDecoder, cut_segments, make_piece, segments_per_task

logger = logging.getLogger(__name__)

# Planned clips over which the share of lost ones is judged
_JUDGED_CLIPS = 256


class VideoCollection:
    """
    Videos cut into clips, ready to be streamed by [`VideoLoader`]. Built by `from_folder`, `from_dataset` or
    `from_hub`, which share the keywords below.

    The order of the tasks (each about half a minute of video from several places) is a pure function of `seed` and the
    epoch: it knows neither ranks nor workers.

    Keywords:
        config: An `OmniLatentConfig`, whose sizes and rates become the defaults of the next eight.
        clip_duration: Seconds of a clip.
        clip_stride: Seconds from one clip's start to the next one's.
        fps: Frames per second taken from the video (8).
        num_frames: Frames of a clip; follows from `clip_duration` and `fps` where it is not given.
        video_size: Pixels per side of a clip's frames (112).
        image_size: Pixels per side of the single frame (224).
        sampling_rate: Of the sound in Hz (16000).
        max_text_length: Most tokens of a clip's text (2048).
        segment_duration: Seconds of video that are decoded in one pass.
        segments_per_task: Segments whose clips are mixed; `None`: as many as make about half a minute, 16 at most.
            More mix a collection of long videos better and take more memory, about 0.8 MB a clip.
        max_bad_fraction: Share of unreadable files, or of lost clips among the last 256, above which it is an error.
        seed: Of the order, unless a loader has its own.

    Attributes:
        spec: [`ClipSpec`].
        rows: The videos that can be read, `None` for a streamed dataset.
        skips: [`SkipLog`] of what was left out when the collection was built.

    Raises:
        ValueError: for a folder that is none or empty; its subclasses `NoUsableClipsError` when nothing in the
            collection can be read, `TooManyBadClipsError` when too little of it can.

    Example:

    ```python
    >>> from omnilatent.training.data import VideoCollection, VideoLoader

    >>> collection = VideoCollection.from_folder("videos", clip_duration=2.0, clip_stride=1.0)
    >>> batch = next(iter(VideoLoader(collection, batch_size=4)))
    >>> batch["video"].shape
    torch.Size([4, 16, 3, 112, 112])
    ```
    """

    def __init__(
        self,
        rows: Sequence[Row] | None,
        spec: ClipSpec,
        *,
        segment_duration: float = 16.0,
        segments_per_task: int | None = None,
        max_bad_fraction: float = 0.9,
        seed: int = 0,
        skips: Sequence[Skip] = (),
        table=None,
        stream: StreamedRows | None = None,
    ):
        if not 0 <= max_bad_fraction <= 1:
            raise ValueError(f"`max_bad_fraction` must lie between 0 and 1, got {max_bad_fraction}.")
        if segment_duration <= 0:
            raise ValueError(f"`segment_duration` must be positive, got {segment_duration} s.")
        if segments_per_task is not None and segments_per_task < 1:
            raise ValueError(f"`segments_per_task` must be at least 1, got {segments_per_task}.")
        self.rows = rows
        self.spec = spec
        self.segment_duration = segment_duration
        self.max_bad_fraction = max_bad_fraction
        self.seed = seed
        self.skips = SkipLog(skips)
        self._told: set[tuple[str, str]] = set()
        self.tell(skips)
        self._table = table
        self._stream = stream
        self._segments_per_task = segments_per_task
        self._segments = [] if rows is None else cut_segments(rows, spec, segment_duration)
        if rows is not None:
            self._judge_rows(skips)

    def tell(self, skips: Iterable[Skip]) -> None:
        """Name each file and reason once, however many loaders and epochs meet it."""
        for skip in skips:
            if (skip.path, skip.reason) not in self._told:
                self._told.add((skip.path, skip.reason))
                place = (skip.path, skip.time, skip.reason)
                warn_of_first(logger, len(self._told), "Could not read %s at %.2f s: %s", *place)

    def _judge_rows(self, skips):
        unreadable = len({skip.path for skip in skips} - {row.label for row in self.rows})
        if not self._segments:
            raise NoUsableClipsError(f"None of {unreadable} videos gives a clip:\n{describe(skips)}")
        if unreadable > self.max_bad_fraction * (len(self.rows) + unreadable):
            raise TooManyBadClipsError(
                f"{unreadable} of {len(self.rows) + unreadable} videos give no clip, more than "
                f"max_bad_fraction={self.max_bad_fraction} allows:\n{describe(skips)}"
            )

    @classmethod
    def from_folder(cls, path: str | Path, config=None, **keywords) -> "VideoCollection":
        """
        All videos below a folder with the transcripts beside them; see `scan_folder` for what is found, and the class
        for the keywords.
        """
        spec, keywords = _split_keywords(config, keywords)
        found, skips = scan_folder(path)
        rows, more_skips = rows_of_folder(found, spec)
        return cls(rows, spec, skips=[*skips, *more_skips], **keywords)

    @classmethod
    def from_dataset(
        cls, dataset, config=None, *, video_column: str | None = None, text_column: str | None = None, **keywords
    ) -> "VideoCollection":
        """
        The videos of a `datasets.Dataset` or `datasets.IterableDataset`.

        Args:
            dataset: Has a column of type `Video`, or of paths or bytes.
            video_column: Its name; `None`: the first of type `Video`, or the one called "video".
            text_column: The words of the videos: a caption, which holds for all of a video, or a list of
                `{"start", "end", "text"}` in seconds. `None`: "text", "transcript" or "caption" where there is one.
            shuffle_rows: Only for an IterableDataset: rows read together and shuffled, 64 by default.
            keywords: See the class.
        """
        from datasets import IterableDataset

        if isinstance(dataset, IterableDataset):
            shuffle_rows = keywords.pop("shuffle_rows", 64)
            spec, keywords = _split_keywords(config, keywords)
            stream = StreamedRows(dataset, spec, video_column, text_column, shuffle_rows)
            return cls(None, spec, stream=stream, **keywords)
        spec, keywords = _split_keywords(config, keywords)
        video_column, text_column = find_columns(dataset.column_names, dataset.features, video_column, text_column)
        dataset = undecoded(dataset, video_column)
        rows, skips = [], []
        for number, record in enumerate(dataset):
            label, source, words = video_and_words(record, video_column, text_column, number)
            row, more = make_row(label, source, words, spec, place=number if isinstance(source, bytes) else None)
            rows += [] if row is None else [row]
            skips += more
        return cls(rows, spec, skips=skips, table=_TableReader(dataset, video_column), **keywords)

    @classmethod
    def from_hub(
        cls,
        repo_id_or_path: str,
        config=None,
        *,
        split: str = "train",
        streaming: bool = True,
        name: str | None = None,
        revision: str | None = None,
        **keywords,
    ) -> "VideoCollection":
        """
        A dataset repository by name, read as it comes (`streaming=True`) or downloaded first.

        Args:
            repo_id_or_path: As `datasets.load_dataset` takes it.
            split, streaming, name, revision: As in `datasets.load_dataset`.
            keywords: As in `from_dataset`.
        """
        from datasets import load_dataset

        dataset = load_dataset(str(repo_id_or_path), name, split=split, streaming=streaming, revision=revision)
        return cls.from_dataset(dataset, config, **keywords)

    @property
    def num_clips(self) -> int | None:
        """Clips planned for an epoch; `None` for a streamed dataset, which does not say how long it is."""
        return None if self._stream else sum(segment.count for segment in self._segments)

    @property
    def num_tasks(self) -> int | None:
        """Tasks of an epoch; `None` for a streamed dataset."""
        return None if self._stream else -(-len(self._segments) // self._group)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Which of text, audio, image and video occur; of a streamed dataset, in its first rows."""
        rows = self._stream.first_rows if self._stream else self.rows
        has_text, has_audio = any(row.cues for row in rows), any(row.has_audio for row in rows)
        return (*(["text"] if has_text else []), *(["audio"] if has_audio else []), "image", "video")

    @property
    def judged_clips(self) -> int:
        """Planned clips over which a loader judges `max_bad_fraction`."""
        return _JUDGED_CLIPS if self._stream else min(self.num_clips, _JUDGED_CLIPS)

    @property
    def _group(self) -> int:
        return self._segments_per_task or segments_per_task(self._segments, self.spec)

    def decoder(self) -> TaskDecoder:
        """What turns a task into clips, in a worker or here."""
        return TaskDecoder(self.spec, self._table)

    def source_of(self, row: Row) -> str | bytes:
        """The path, address or bytes of a video."""
        return self._table(row.source) if isinstance(row.source, int) else row.source

    def start(self) -> dict[str, Any]:
        """The position before the first task."""
        return self._stream.start() if self._stream else {"epoch": 0, "task": 0}

    def after(self, position: dict[str, Any]) -> dict[str, Any]:
        """The position after the task that stands at `position`."""
        if self._stream:
            return self._stream.after(position)
        epoch, task = divmod(position["epoch"] * self.num_tasks + position["task"] + 1, self.num_tasks)
        return {"epoch": epoch, "task": task}

    def tasks(
        self, position: dict[str, Any] | None = None, shuffle: bool = True, seed: int | None = None
    ) -> Iterator[Task]:
        """All tasks from a position on, epoch after epoch, without end; `seed` takes the place of the collection's."""
        position = self.start() if position is None else position
        seed = self.seed if seed is None else seed
        if self._stream:
            yield from self._stream.tasks(position, seed, shuffle, self.segment_duration, self._segments_per_task)
            return
        order_epoch, order = None, None
        while True:
            if order_epoch != position["epoch"]:
                order_epoch, order = position["epoch"], self._order(position["epoch"], shuffle, seed)
            key = (seed, position["epoch"], position["task"]) if shuffle else None
            yield self._task(position, order, key)
            position = self.after(position)

    def _order(self, epoch, shuffle, seed):
        if not shuffle:
            return np.arange(len(self._segments))
        return np.random.default_rng((seed, epoch)).permutation(len(self._segments))

    def _task(self, position, order, shuffle_key):
        epoch, task = position["epoch"], position["task"]
        chosen: list[Segment] = [self._segments[i] for i in order[task * self._group : (task + 1) * self._group]]
        return Task(
            number=epoch * self.num_tasks + task,
            position=position,
            shuffle_key=shuffle_key,
            pieces=tuple(make_piece(self.rows[segment.row], segment, self.spec) for segment in chosen),
        )


class _TableReader:
    """Fetches the video of a row where the videos lie in a table."""

    def __init__(self, dataset, video_column):
        self.dataset, self.video_column = dataset, video_column

    def __call__(self, number: int) -> str | bytes:
        _, source, _ = video_and_words(self.dataset[number], self.video_column, None, number)
        return source


def _split_keywords(config, keywords):
    """The measures of a clip among the keywords, as a `ClipSpec`, and the others."""
    names = ClipSpec.__dataclass_fields__
    spec = ClipSpec.from_config(config, **{name: value for name, value in keywords.items() if name in names})
    return spec, {name: value for name, value in keywords.items() if name not in names}
