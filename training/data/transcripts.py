"""Transcripts beside a video: .srt, .vtt and .txt files become timed cues, cues become the text of a clip."""

import codecs
import html
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

TRANSCRIPT_SUFFIXES = (".srt", ".vtt", ".txt")  # in order of preference: those with times first

_CLOCK = r"(?:(\d+):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
_TIMING = re.compile(rf"\s*{_CLOCK}\s*-->\s*{_CLOCK}")
_MARKUP = re.compile(r"<[^>]*>|\{\\[^}]*\}")  # <i>, <c.colour>, <00:00:01.000> and the {\an8} of old players
_VTT_BLOCKS = ("WEBVTT", "NOTE", "STYLE", "REGION")


class Cue(NamedTuple):
    """A line of a transcript and the time it belongs to, in seconds."""

    start: float
    end: float
    text: str


class Transcript(NamedTuple):
    """Cues in order of time, with what was wrong with the rest."""

    cues: tuple[Cue, ...]
    broken: int  # cues left out: times unreadable or running backwards, or no text
    overlapping: int  # cues kept that begin before an earlier one ends


def read_transcript(path: str | Path, duration: float) -> Transcript:
    """
    Read the transcript of a video.

    Args:
        path: An .srt, .vtt or .txt file in UTF-8, UTF-16 with byte order mark, or else Latin-1.
        duration: Seconds of the video. A .txt file carries no times, so its words are spread evenly over them.

    Raises:
        ValueError: for another suffix.
        OSError: when the file cannot be read.
    """
    path = Path(path)
    text = decode_text(path.read_bytes())
    if path.suffix.lower() == ".txt":
        return Transcript(spread_words(text, duration), 0, 0)
    if path.suffix.lower() in TRANSCRIPT_SUFFIXES:
        return parse_cues(text)
    raise ValueError(f"{path} is no transcript: expected one of {', '.join(TRANSCRIPT_SUFFIXES)}.")


def decode_text(data: bytes) -> str:
    """Bytes of a subtitle file as text with `\\n` line ends; anything that is not Unicode is read as Latin-1."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = data.decode("utf-16", errors="replace")
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")


def parse_cues(text: str) -> Transcript:
    """
    Cues of an .srt or .vtt text. Neither the numbering nor the blank lines between cues are relied upon.

    Example:

    ```python
    >>> from omnilatent.training.data import parse_cues

    >>> parse_cues("1\\n00:00:00,500 --> 00:00:02,000\\nHello\\n").cues
    (Cue(start=0.5, end=2.0, text='Hello'),)
    ```
    """
    cues, broken = [], 0
    lines = text.split("\n")
    timings = [number for number, line in enumerate(lines) if "-->" in line]
    for number, following in zip(timings, [*timings[1:], None]):
        spoken = _spoken_lines(lines[number + 1 : following])
        cue = _cue(lines[number], spoken)
        if cue is None:
            broken += 1
        else:
            cues.append(cue)
    cues = sorted(dict.fromkeys(cues), key=lambda cue: cue[:2])  # an exact repetition says nothing new
    overlapping, reached = 0, 0.0
    for cue in cues:
        overlapping += cue.start < reached
        reached = max(reached, cue.end)
    return Transcript(tuple(cues), broken, overlapping)


def _spoken_lines(lines):
    """The lines of one cue, from those between its timing line and the next."""
    spoken = []
    for position, line in enumerate(lines):
        line = line.strip()
        if not line and spoken:
            break
        is_number_of_next_cue = line.isdigit() and position == len(lines) - 1
        if not line or is_number_of_next_cue:
            continue
        if line.startswith(_VTT_BLOCKS):
            break
        spoken.append(line)
    return spoken


def _cue(timing, spoken):
    match = _TIMING.match(timing)
    text = " ".join(html.unescape(_MARKUP.sub("", " ".join(spoken))).split())
    if match is None or not text:
        return None
    start, end = _seconds(match.groups()[:4]), _seconds(match.groups()[4:])
    return Cue(start, end, text) if end > start else None


def _seconds(clock):
    hours, minutes, seconds, fraction = clock
    return int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds) + int(fraction.ljust(3, "0")) / 1000


def spread_words(text: str, duration: float) -> tuple[Cue, ...]:
    """Give word i of n the time from `i / n` to `(i + 1) / n` of the video: its share when nothing better is known."""
    words = text.split()
    step = duration / max(1, len(words))
    return tuple(Cue(i * step, (i + 1) * step, word) for i, word in enumerate(words))


def cues_between(cues: Iterable[Cue], start: float, end: float) -> list[Cue]:
    """The cues that share some time with `start` to `end` seconds."""
    return [cue for cue in cues if cue.start < end and cue.end > start]


def text_between(cues: Iterable[Cue], start: float, end: float) -> str:
    """The text spoken between `start` and `end` seconds; "" where nothing is said."""
    return " ".join(cue.text for cue in cues_between(cues, start, end))
