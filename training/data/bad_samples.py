"""Samples that were left out: where each stood, what was wrong with it, and the errors that end a rotten run."""

import logging
from collections.abc import Iterable
from typing import NamedTuple

SHOWN = 5  # of things that were left out; the rest are details


class SchemaError(ValueError):
    """The table as a whole is not what was expected: no sample of it could be read."""


class TooManyBadSamplesError(ValueError):
    """More samples are bad than `max_bad_fraction` allows."""


class BadSampleError(ValueError):
    """What is wrong with one sample; its place is added by who reads the table."""


class BadSample(NamedTuple):
    """One sample that was left out."""

    file: str  # or what the table is called
    line: int | str  # from 1 in a file, from 0 in a table
    reason: str  # names the value

    def __str__(self) -> str:
        return f"{self.file}, {self.line if isinstance(self.line, str) else f'line {self.line}'}: {self.reason}"


class BadSampleLog:
    """
    Counts the samples that were left out and keeps the first `keep` of them in full.

    Example:

    ```python
    >>> from omnilatent.training.data import BadSample, BadSampleLog

    >>> log = BadSampleLog()
    >>> log.add(BadSample("train.json", 7, "the caption is empty: ''"))
    >>> log.total, str(log)
    (1, "  train.json, line 7: the caption is empty: ''")
    ```
    """

    def __init__(self, bad: Iterable[BadSample] = (), keep: int = 100):
        self.keep = keep
        self.total = 0
        self.examples: list[BadSample] = []
        for one in bad:
            self.add(one)

    def add(self, bad: BadSample) -> None:
        self.total += 1
        if len(self.examples) < self.keep:
            self.examples.append(bad)

    def check(self, good: int, max_bad_fraction: float) -> None:
        """
        Raises:
            TooManyBadSamplesError: for no good sample, or too many bad ones.
        """
        if not good:
            raise TooManyBadSamplesError(f"None of {self.total} samples could be read:\n{self}")
        if self.total > max_bad_fraction * (good + self.total):
            raise TooManyBadSamplesError(
                f"{self.total} of {good + self.total} samples could not be read, more than "
                f"max_bad_fraction={max_bad_fraction} allows:\n{self}"
            )

    def __str__(self) -> str:
        lines = [f"  {one}" for one in self.examples[:SHOWN]]
        if self.total > len(lines):
            lines.append(f"  ... and {self.total - len(lines)} more")
        return "\n".join(lines)


def warn_of_first(logger: logging.Logger, number: int, message: str, *args) -> None:
    """
    Warn of the first few things of a kind; the rest are details, which the log file of a run holds as well.

    Args:
        logger: Of the module that met it.
        number: From 1.
        message, args: As for `logger.warning`.
    """
    if number == SHOWN + 1:
        logger.warning("There are more than %d of them: the rest are not shown.", SHOWN)
    logger.log(logging.WARNING if number <= SHOWN else logging.DEBUG, message, *args)
