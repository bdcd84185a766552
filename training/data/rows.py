"""Light rows: for each video its place, its length and its timed words, so that workers need nothing else."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

from .clips import ClipSpec
from .decode import probe, reason_of
from .scan import TEXT_COLUMNS, FoundVideo
from .skips import Skip
from .transcripts import Cue, Transcript, read_transcript


class Row(NamedTuple):
    """A video that can be opened."""

    label: str  # path, or a name for a video that lies in a table
    source: str | bytes | int  # path or address, the bytes, or the row of a table that holds the bytes
    duration: float  # seconds
    has_audio: bool  # whether there is a sound track
    cues: tuple[Cue, ...]


def rows_of_folder(found: Iterable[FoundVideo], spec: ClipSpec) -> tuple[list[Row], list[Skip]]:
    """Open every file once, read its header and its transcript."""
    # FFmpeg works without the interpreter's lock, so threads hide the waiting for a slow disk
    with ThreadPoolExecutor(max_workers=8) as threads:
        results = list(threads.map(_row_of_file, found, repeat(spec)))
    rows = [row for row, _ in results if row is not None]
    return rows, [skip for _, skips in results for skip in skips]


def _row_of_file(video, spec):
    row, skips = make_row(video.path, video.path, video.text, spec)
    if row is None or video.text is not None or video.transcript is None:
        return row, skips
    try:
        transcript = read_transcript(video.transcript, row.duration)
    except OSError as error:
        return row, [*skips, Skip(video.transcript, 0.0, 0, reason_of(error))]
    return row._replace(cues=transcript.cues), [*skips, *_broken_cues(video.transcript, transcript)]


def _broken_cues(path, transcript: Transcript):
    if transcript.broken:
        yield Skip(path, 0.0, 0, f"{transcript.broken} cues without a readable time or text")
    elif not transcript.cues:
        yield Skip(path, 0.0, 0, "no words in it")


def make_row(
    label: str, source: str | bytes, words: str | list | None, spec: ClipSpec, place: int | None = None
) -> tuple[Row | None, list[Skip]]:
    """
    The row of one video, or `None` and the reason why it gives no clip.

    Args:
        label: Name of the video in messages.
        source: Path, address or bytes.
        words: A caption of the whole video, a list of `{"start", "end", "text"}`, or `None`.
        spec: Measures of the clips.
        place: Row of the table in which `source` lies, to be noted instead of the bytes.
    """
    try:
        info = probe(source)
    except Exception as error:  # whatever FFmpeg makes of a file that is no video
        return None, [Skip(label, 0.0, 0, reason_of(error))]
    if spec.num_clips(info.duration) == 0:
        reason = f"{info.duration:.2f} s long, shorter than a clip of {spec.clip_duration} s"
        return None, [Skip(label, 0.0, 0, reason)]
    cues = _cues_of(words, info.duration)
    return Row(label, source if place is None else place, info.duration, info.has_audio, cues), []


def _cues_of(words, duration):
    if words is None or not words:
        return ()
    if isinstance(words, str):
        return (Cue(0.0, duration, words),)  # a caption tells of the whole video
    try:
        return tuple(sorted(Cue(float(w["start"]), float(w["end"]), str(w["text"])) for w in words))
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(
            f"Words of a video must be a string or a list of {{'start', 'end', 'text'}}, got {str(words)[:80]!r}."
        ) from error


def video_and_words(row: dict, video_column: str, text_column: str | None, number: int):
    """Label, source and words of a row of a `datasets` table."""
    video = row[video_column]
    words = row[text_column] if text_column else None
    if isinstance(video, dict):
        path, data = video.get("path"), video.get("bytes")
    else:
        path, data = (None, video) if isinstance(video, bytes) else (video, None)
    if isinstance(path, Path):
        path = str(path)
    label = f"row {number}" if path is None else path
    return label, path if data is None else data, words


def find_columns(names: Iterable[str], features, video_column: str | None, text_column: str | None):
    """
    The column that holds the videos and the one that holds the words, `None` where there are no words.

    Raises:
        ValueError: when a column that was named is missing, or no column holds videos.
    """
    from datasets import Video

    names = list(names)
    for wanted in (video_column, text_column):
        if wanted is not None and wanted not in names:
            raise ValueError(f"No column {wanted!r}: the dataset has {names}.")
    if video_column is None:
        of_type = [name for name in names if features is not None and isinstance(features.get(name), Video)]
        video_column = next(iter([*of_type, *(name for name in names if name == "video")]), None)
    if video_column is None:
        raise ValueError(f"No column of videos among {names}: expected one of type Video, or name it `video_column`.")
    if text_column is None:
        text_column = next((name for name in TEXT_COLUMNS if name in names), None)
    return video_column, text_column


def undecoded(dataset, video_column):
    """The dataset with paths and bytes in its video column: `datasets` would decode with torchcodec."""
    from datasets import Video

    if dataset.features is not None and isinstance(dataset.features[video_column], Video):
        return dataset.cast_column(video_column, Video(decode=False))
    return dataset
