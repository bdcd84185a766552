"""Streams whose samples are numbered, so that an evaluation on several processes counts each once.

A stream has no length. accelerate's `IterableDatasetShard` fills the last batch of all processes with samples of the
first, and `gather_for_metrics`, which cuts such samples off, would need the length for it.
"""

from collections.abc import Callable, Iterator, Sequence

from torch.utils.data import IterableDataset, get_worker_info

NUMBER = "stream_number"
MOST = 2**40  # samples of a worker


class NumberedStream(IterableDataset):
    """
    The samples of a stream with their numbers, the same in all processes, each of which reads the whole stream.

    Args:
        stream: Of dicts. Its workers read different samples.
    """

    def __init__(self, stream: IterableDataset):
        self.stream = stream

    def __iter__(self) -> Iterator[dict]:
        worker = get_worker_info()
        start = 0 if worker is None else worker.id * MOST
        for number, sample in enumerate(self.stream, start):
            yield {**sample, NUMBER: number}

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self.stream, "set_epoch"):
            self.stream.set_epoch(epoch)


class NumberedCollator:
    """Makes batches by another collator, and hands on the numbers of samples that have them."""

    def __init__(self, collator: Callable[[Sequence[dict]], dict]):
        self.collator = collator

    def __call__(self, samples: Sequence[dict]) -> dict:
        numbers = [sample[NUMBER] for sample in samples if NUMBER in sample]
        batch = self.collator([{name: sample[name] for name in sample if name != NUMBER} for sample in samples])
        return {**batch, NUMBER: numbers} if numbers else batch


def number_streams(data):
    """A dataset, or several by name, with streams among them numbered."""
    if isinstance(data, dict):
        return {name: number_streams(part) for name, part in data.items()}
    is_new = isinstance(data, IterableDataset) and not isinstance(data, NumberedStream)
    return NumberedStream(data) if is_new else data


def each_once(rows: Sequence[dict]) -> list[dict]:
    """Rows without their numbers, and of equal numbers the first alone; rows that have none, as they are."""
    kept: dict = {}
    for place, row in enumerate(rows):
        kept.setdefault(row.get(NUMBER, -1 - place), row)
    return [{name: value for name, value in row.items() if name != NUMBER} for row in kept.values()]
