"""
Rows of a `datasets.IterableDataset`, which can only be read one after the other.

A block of `shuffle_rows` rows is read, cut into segments, permuted and handed out as tasks; then the next block. The
position is the source's own `state_dict` before the block and the number of the task in it, so resuming reads that
block again and goes on exactly where it stopped. This is exact as far as the source is: rows in the same order again,
which files and repositories are, and which `IterableDataset.shuffle` with a buffer is not (`datasets` says so itself).
"""

import copy
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from .clips import ClipSpec
from .rows import Row, find_columns, make_row, undecoded, video_and_words
from .skips import NoUsableClipsError, Skip
from .tasks import Piece, Task, cut_segments, make_piece, segments_per_task

# Rows looked at beforehand, to tell which modalities there are
_FIRST_ROWS = 4


class StreamedRows:
    """
    Args:
        dataset: `datasets.IterableDataset`.
        spec: Measures of the clips.
        video_column, text_column: As in `VideoCollection.from_dataset`.
        shuffle_rows: Rows of a block. They are held in memory, with their bytes if that is what the dataset streams.

    Raises:
        NoUsableClipsError: when there are no rows.
    """

    def __init__(self, dataset, spec: ClipSpec, video_column, text_column, shuffle_rows: int):
        if shuffle_rows < 1:
            raise ValueError(f"`shuffle_rows` must be at least 1, got {shuffle_rows}.")
        self.spec, self.shuffle_rows = spec, shuffle_rows
        # without declared features the columns are known only from a row
        names = dataset.column_names or list(next(iter(dataset), {}))
        if not names:
            raise NoUsableClipsError("The streamed dataset has no rows.")
        self.video_column, self.text_column = find_columns(names, dataset.features, video_column, text_column)
        self.dataset = undecoded(dataset, self.video_column)
        self.first_rows, skips, count = self._read_rows(enumerate(self.dataset), _FIRST_ROWS)
        if count == 0:
            raise NoUsableClipsError("The streamed dataset has no rows.")

    def start(self) -> dict[str, Any]:
        """`source`: state of the dataset before the block, `{}` for its beginning; `number`: tasks handed out."""
        return {"epoch": 0, "block": 0, "task": 0, "number": 0, "source": {}}

    def after(self, position: dict[str, Any]) -> dict[str, Any]:
        return {**position, "task": position["task"] + 1, "number": position["number"] + 1}

    def tasks(
        self, position: dict[str, Any], seed: int, shuffle: bool, segment_duration: float, group: int | None
    ) -> Iterator[Task]:
        """All tasks from a position on, epoch after epoch, without end."""
        number, done = position["number"], position["task"]
        for place, rows, skips in self._blocks(position):
            key = (seed, place["epoch"], place["block"])
            for index, pieces in enumerate(self._group(rows, key if shuffle else None, segment_duration, group)):
                if index >= done:
                    yield Task(
                        number=number,
                        position={**place, "task": index, "number": number},
                        shuffle_key=(*key, index) if shuffle else None,
                        pieces=pieces,
                        skips=tuple(skips) if index == 0 else (),
                    )
                    number += 1
            done = 0

    def _blocks(self, position):
        """Blocks of rows from the one at `position` on, each with its epoch, number and the source's state before."""
        epoch, block, source = position["epoch"], position["block"], position["source"]
        while True:
            # a copy of its own, because `datasets` keeps the state of an iteration in the dataset
            dataset = copy.deepcopy(self.dataset)
            dataset.set_epoch(epoch)
            if source:
                dataset.load_state_dict(source)
            records, count = enumerate(dataset), self.shuffle_rows
            while count == self.shuffle_rows:
                rows, skips, count = self._read_rows(records, self.shuffle_rows)
                yield {"epoch": epoch, "block": block, "source": source}, rows, skips
                block, source = block + 1, dataset.state_dict()
            epoch, block, source = epoch + 1, 0, {}

    def _read_rows(self, records, limit):
        rows: list[Row] = []
        skips: list[Skip] = []
        count = 0
        for number, record in islice(records, limit):
            label, source, words = video_and_words(record, self.video_column, self.text_column, number)
            row, lost = make_row(label, source, words, self.spec)
            rows += [] if row is None else [row]
            # how many clips it would have had is not known; one, so that a rotten stream is noticed
            skips += [skip._replace(clips=1) for skip in lost]
            count += 1
        return rows, skips, count

    def _group(self, rows, key, segment_duration, group) -> list[tuple[Piece, ...]]:
        segments = cut_segments(rows, self.spec, segment_duration)
        group = group or segments_per_task(segments, self.spec)
        order = np.arange(len(segments)) if key is None else np.random.default_rng(key).permutation(len(segments))
        pieces = [make_piece(rows[segments[i].row], segments[i], self.spec) for i in order]
        # one task at least, which carries the skips of the block
        return [tuple(pieces[i : i + group]) for i in range(0, max(1, len(pieces)), group)]
