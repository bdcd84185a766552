"""Records of anything that samples come in: JSON files, lists, `datasets`."""

import os
from collections.abc import Mapping
from pathlib import Path

from .bad_samples import BadSample, SchemaError
from .json_records import Record, read_json_records


class SampleTable:
    """
    Records with their places, the names of the columns, and what the table is called.

    Args:
        source: Path of a JSON file, a list of dicts, a `datasets.Dataset`, or a `datasets.IterableDataset`, of which
            `records` are read as they are asked for.

    Raises:
        TypeError: for anything else.
    """

    def __init__(self, source):
        self.bad: list[BadSample] = []
        self.folder: Path | None = None
        self.class_names: dict[str, list[str]] = {}
        if isinstance(source, (str, os.PathLike)):
            self.title, self.folder = str(source), Path(source).parent
            self.records, self.bad = read_json_records(source)
            self.names = _names(record.values for record in self.records)
        elif isinstance(source, (list, tuple)):
            self.title = "the list"
            if not all(isinstance(values, Mapping) for values in source):
                raise TypeError("A list of samples must hold dicts, with a value for each column.")
            self.records = [Record(self.title, f"entry {number}", values) for number, values in enumerate(source)]
            self.names = _names(source)
        else:
            self._open_dataset(source)
        if not self.names:
            raise SchemaError(f"{self.title} has no column.")

    def _open_dataset(self, source):
        from datasets import ClassLabel, Dataset, Image, IterableDataset

        if not isinstance(source, (Dataset, IterableDataset)):
            raise TypeError(
                "Samples come from the path of a JSON file, a list of dicts, a datasets.Dataset or a "
                f"datasets.IterableDataset, got {type(source).__name__}."
            )
        name = source.info.dataset_name
        self.title = "the dataset" if name is None else f"dataset {name}"
        features = source.features or {}
        for column, feature in features.items():
            if isinstance(feature, Image):  # decoded here, where an error can be told from others
                source = source.cast_column(column, Image(decode=False))
            if isinstance(feature, ClassLabel):
                self.class_names[column] = feature.names
        self.stream = source
        self.names = set(source.column_names or next(iter(source), {}))
        self.records = _RowRecords(source, self.title)


class _RowRecords:
    def __init__(self, rows, title):
        self._rows, self._title = rows, title

    def __iter__(self):
        for number, values in enumerate(self._rows):
            yield Record(self._title, f"row {number}", values)


def _names(rows) -> set[str]:
    return {name for values in rows for name in values}
