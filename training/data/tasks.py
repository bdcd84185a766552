"""
Tasks: what a worker does at one go. Their order is a pure function of (seed, epoch) and of nothing else, and the clips
of a task are a pure function of the task; hence a position in the stream is a few integers.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .clips import ClipSpec
from .decode import decode_clips
from .rows import Row
from .skips import Skip
from .transcripts import Cue, cues_between, text_between

# Seconds of video that one task should hold: some mixing, and little to travel (0.8 MB a clip) or to do again at resume
_TASK_SECONDS = 32.0
_MAX_SEGMENTS = 16


class Segment(NamedTuple):
    """Consecutive clips of one video, decoded in one pass."""

    row: int
    first: int  # number of its first clip in the video
    count: int


class Piece(NamedTuple):
    """A segment with all that is needed to decode it."""

    label: str
    source: str | bytes | int
    starts: tuple[float, ...]  # seconds
    cues: tuple[Cue, ...]


class Task(NamedTuple):
    """Work for one worker."""

    number: int  # counted over all epochs and ranks; rank r does those with number % world_size == r
    position: dict[str, Any]  # where the stream stands before it
    shuffle_key: tuple[int, ...] | None  # seeds the order of its clips; None: as they come
    pieces: tuple[Piece, ...]
    skips: tuple[Skip, ...] = ()  # what was lost while the task was made


class TaskResult(NamedTuple):
    """What a task gave. n clips; T frames; sizes as in `ClipSpec`."""

    columns: dict[str, Any]  # video (n, T, 3, H, W), image, audio, has_audio, start: arrays; text, path: lists
    skips: list[Skip]

    def __len__(self) -> int:
        return len(self.columns["path"])


def cut_segments(rows: Sequence[Row], spec: ClipSpec, segment_duration: float) -> list[Segment]:
    """Cut each video into segments whose clips begin within `segment_duration` seconds."""
    per_segment = max(1, math.ceil(segment_duration / spec.clip_stride - 1e-9))
    segments = []
    for number, row in enumerate(rows):
        clips = spec.num_clips(row.duration)
        segments += [Segment(number, first, min(per_segment, clips - first)) for first in range(0, clips, per_segment)]
    return segments


def segments_per_task(segments: Sequence[Segment], spec: ClipSpec) -> int:
    """How many segments of this collection make about half a minute of video."""
    if not segments:
        return 1
    clips = sum(segment.count for segment in segments) / len(segments)
    seconds = (clips - 1) * spec.clip_stride + spec.clip_duration
    return int(np.clip(round(_TASK_SECONDS / seconds), 1, _MAX_SEGMENTS))


def make_piece(row: Row, segment: Segment, spec: ClipSpec) -> Piece:
    """Join a segment with its video's place and the words spoken in it."""
    starts = tuple((segment.first + i) * spec.clip_stride for i in range(segment.count))
    cues = cues_between(row.cues, starts[0], starts[-1] + spec.clip_duration)
    return Piece(row.label, row.source, starts, tuple(cues))


class TaskDecoder:
    """
    Map-style dataset for `torch.utils.data.DataLoader` whose indices are tasks. It runs in the workers, so it carries
    little: the measures of a clip and, where the videos lie in a table, that table.
    """

    def __init__(self, spec: ClipSpec, read_source=None):
        self.spec = spec
        self.read_source = read_source  # row of the table -> path or bytes

    def __getitem__(self, task: Task) -> TaskResult:
        clips, skips = [], list(task.skips)
        for piece in task.pieces:
            source = self.read_source(piece.source) if isinstance(piece.source, int) else piece.source
            stretch = decode_clips(source, piece.starts, self.spec)
            for clip in stretch.clips:
                clip["path"] = piece.label
                clip["text"] = text_between(piece.cues, clip["start"], clip["start"] + self.spec.clip_duration)
            clips += stretch.clips
            skips += _skips(piece, stretch)
        if task.shuffle_key is not None:
            order = np.random.default_rng(task.shuffle_key).permutation(len(clips))
            clips = [clips[i] for i in order]
        return TaskResult(_columns(clips, self.spec), skips)


def _skips(piece, stretch):
    if stretch.picture_error is not None:
        made = {clip["start"] for clip in stretch.clips}
        first_lost = next(start for start in piece.starts if start not in made)
        yield Skip(piece.label, first_lost, len(piece.starts) - len(made), stretch.picture_error)
    if stretch.sound_error is not None:
        yield Skip(piece.label, piece.starts[0], 0, f"sound: {stretch.sound_error}")


def _columns(clips, spec):
    video = (spec.num_frames, 3, spec.video_size, spec.video_size)
    image = (3, spec.image_size, spec.image_size)
    return {
        "video": _stack(clips, "video", video, np.uint8),
        "image": _stack(clips, "image", image, np.uint8),
        "audio": _stack(clips, "audio", (spec.num_samples,), np.int16),
        "has_audio": _stack(clips, "has_audio", (), bool),
        "start": _stack(clips, "start", (), np.float64),
        "text": [clip["text"] for clip in clips],
        "path": [clip["path"] for clip in clips],
    }


def _stack(clips, name, shape, dtype):
    # an empty task has the shapes of a full one, so that nothing downstream asks how many there are
    return np.stack([clip[name] for clip in clips]) if clips else np.zeros((0, *shape), dtype)
