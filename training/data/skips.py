"""What could not be read: one record per loss, a bounded log of them, and the errors that end a rotten run."""

from collections import Counter, deque
from collections.abc import Iterable
from typing import NamedTuple


class NoUsableClipsError(ValueError):
    """Nothing in the collection gives a single clip."""


class TooManyBadClipsError(ValueError):
    """More of the collection is unreadable than `max_bad_fraction` allows."""


class Skip(NamedTuple):
    """One thing that was left out."""

    path: str
    time: float  # seconds from the start of the video
    clips: int  # planned clips lost by it; 0 where only sound or transcript is lost
    reason: str


class SkipLog:
    """
    Counts skips and keeps the first `keep` of them in full, so that a long run over a bad disk stays small.

    Example:

    ```python
    >>> from omnilatent.training.data import Skip, SkipLog

    >>> log = SkipLog()
    >>> log.extend([Skip("a.mp4", 4.0, 3, "moov atom not found")])
    >>> log.total, log.clips
    (1, 3)
    ```
    """

    def __init__(self, skips: Iterable[Skip] = (), keep: int = 100):
        self.keep = keep
        self.total = 0  # skips
        self.clips = 0  # planned clips lost
        self.examples: list[Skip] = []
        self.reasons: Counter[str] = Counter()
        self.extend(skips)

    def extend(self, skips: Iterable[Skip]) -> None:
        for skip in skips:
            self.total += 1
            self.clips += skip.clips
            if len(self.examples) < self.keep:
                self.examples.append(skip)
            if skip.reason in self.reasons or len(self.reasons) < self.keep:
                self.reasons[skip.reason] += 1

    def __str__(self) -> str:
        return describe(self.examples, self.total)


def describe(skips: Iterable[Skip], total: int | None = None, show: int = 5) -> str:
    """The first few skips as lines of an error message."""
    skips = list(skips)
    total = len(skips) if total is None else total
    lines = [f"  {skip.path} at {skip.time:.2f} s: {skip.reason}" for skip in skips[:show]]
    if total > len(lines):
        lines.append(f"  ... and {total - len(lines)} more")
    return "\n".join(lines)


class BadClipWatch:
    """
    Raises when too large a share of the clips planned lately was lost.

    Args:
        max_bad_fraction: Largest tolerated share of lost clips, 0 to 1.
        window: Planned clips over which the share is taken; nothing is judged before that many were tried.
    """

    def __init__(self, max_bad_fraction: float, window: int):
        self.max_bad_fraction = max_bad_fraction
        self.window = max(1, window)
        self._made = self._lost = 0
        self._recent: deque[tuple[int, int]] = deque()
        self._since_last_clip = 0

    def add(self, made: int, lost: int, log: SkipLog) -> None:
        self._recent.append((made, lost))
        self._made += made
        self._lost += lost
        self._since_last_clip = 0 if made else self._since_last_clip + lost
        while self._made + self._lost - sum(self._recent[0]) >= self.window:
            old_made, old_lost = self._recent.popleft()
            self._made -= old_made
            self._lost -= old_lost
        planned = self._made + self._lost
        if self._since_last_clip >= self.window:
            raise NoUsableClipsError(f"None of the last {self._since_last_clip} planned clips could be read:\n{log}")
        if planned >= self.window and self._lost > self.max_bad_fraction * planned:
            raise TooManyBadClipsError(
                f"{self._lost} of the last {planned} planned clips could not be read, more than "
                f"max_bad_fraction={self.max_bad_fraction} allows:\n{log}"
            )
