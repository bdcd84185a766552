"""Folder of videos to rows: which files there are, which transcript lies beside each, what metadata.jsonl adds."""

import json
import os
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from .skips import Skip
from .transcripts import TRANSCRIPT_SUFFIXES

SCANNED_SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpeg", ".mpg")
METADATA_FILE = "metadata.jsonl"
TEXT_COLUMNS = ("text", "transcript", "caption")  # where a table keeps the words of a video, first found is taken


class FoundVideo(NamedTuple):
    """A file with a video's suffix and what belongs to it."""

    path: str
    transcript: str | None  # path of the file with its words
    text: str | list | None  # its words as metadata.jsonl has them: a caption, or cues


def scan_folder(folder: str | Path) -> tuple[list[FoundVideo], list[Skip]]:
    """
    Find the videos below a folder, sub-folders included, hidden files and folders not.

    A transcript has the video's name: `talk.srt`, `talk.vtt` or `talk.txt` beside `talk.mp4`, possibly with a word
    between (`talk.en.srt`). Files with times win over those without. `metadata.jsonl`, as in `datasets`' videofolder,
    has a line `{"file_name": "talk.mp4", "text": "a caption of the whole video"}` per video, relative to its own
    folder; `text` may also be a list of `{"start": s, "end": s, "text": …}`. It wins over a file beside the video.

    Returns:
        The videos in the order of their paths, and what could not be looked at.

    Raises:
        ValueError: when `folder` is no folder, holds no video, or has a `metadata.jsonl` that cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is not a folder: expected one that holds videos.")
    videos: list[Path] = []
    transcripts: dict[Path, list[Path]] = defaultdict(list)  # video without its suffix -> files with its words
    texts: dict[str, str | list] = {}
    skips: list[Skip] = []

    def unreadable(error):
        skips.append(Skip(str(error.filename), 0.0, 0, f"{type(error).__name__}: {error.strerror}"))

    for parent, folders, files in os.walk(folder.absolute(), onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(parent, name)
            if name.startswith("."):
                continue  # among them the ._name.mp4 that macOS leaves on other disks
            if name == METADATA_FILE:
                texts.update(_read_metadata(path, skips))
            elif path.suffix.lower() in TRANSCRIPT_SUFFIXES:
                for stem in _stems(name):
                    transcripts[Path(parent, stem)].append(path)
            elif path.suffix.lower() in SCANNED_SUFFIXES:
                if _is_unicode(str(path)):
                    videos.append(path)
                else:
                    skips.append(Skip(repr(name), 0.0, 0, "file name is not Unicode"))
    if not videos:
        raise ValueError(f"No video in {str(folder)!r}: looked for files ending in {', '.join(SCANNED_SUFFIXES)}.")
    found = [
        FoundVideo(str(path), _best(transcripts.get(path.with_suffix(""), [])), texts.get(str(path)))
        for path in sorted(videos)
    ]
    return found, skips


def _is_unicode(text):
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _stems(name):
    """Stems of the videos that a transcript may belong to: "talk.en.srt" to "talk.mp4" and to "talk.en.mp4"."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _best(transcripts):
    rank = {suffix: number for number, suffix in enumerate(TRANSCRIPT_SUFFIXES)}
    # the plain name before one with a language in it, "talk.srt" before "talk.en.srt"
    best = min(transcripts, key=lambda path: (rank[path.suffix.lower()], len(path.name), path.name), default=None)
    return None if best is None else str(best)


def _read_metadata(path, skips):
    texts = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            video = Path(os.path.normpath(path.parent / row["file_name"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: expected an object with a `file_name`, got {line[:80]!r}"
            ) from error
        if not video.is_file():
            skips.append(Skip(str(video), 0.0, 0, f"named in {METADATA_FILE} but not there"))
            continue
        words = next((row[column] for column in TEXT_COLUMNS if row.get(column)), None)
        if words is not None:
            texts[str(video)] = words
    return texts
