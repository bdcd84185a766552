"""Images with labels from any dataset of `datasets`: its splits, its columns, and the names of its classes."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import numpy as np
from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

logger = logging.getLogger(__name__)

LABEL_COLUMNS = ("label", "labels", "class", "fine_label", "target")
HELD_OUT_SPLITS = ("validation", "val", "valid", "dev", "test")


@dataclass
class ImageTable:
    """
    Args:
        rows: A `Dataset` or an `IterableDataset`, whose images are not decoded yet.
        title: What messages call it.
        image_column, label_column: Of `rows`.
        classes: Names of the labels, in the order of their numbers.
    """

    rows: datasets.Dataset | datasets.IterableDataset
    title: str
    image_column: str
    label_column: str
    classes: list[str]

    @property
    def is_stream(self) -> bool:
        return isinstance(self.rows, datasets.IterableDataset)


def open_image_tables(
    data: str,
    config_name: str | None = None,
    data_dir: str | Path | None = None,
    data_files: Sequence[str] | None = None,
    streaming: bool = False,
    train_split: str = "train",
    val_split: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    classes: Sequence[str] | None = None,
    held_out: float = 0.1,
    seed: int = 0,
) -> tuple[ImageTable, ImageTable | None]:
    """
    Images to learn from and to judge by.

    Args:
        data: Of `datasets.load_dataset`: a repository, a builder like "imagefolder" or "webdataset", or a folder; also
            a folder from `save_to_disk`.
        config_name, data_dir, data_files, streaming: Of `datasets.load_dataset`.
        train_split: Name of a split.
        val_split: Likewise. `None`: a validation or test split if there is one, or a share of the first split.
        image_column, label_column: `None`: the column of images, and the one that is called so or is alone in being a
            `ClassLabel`.
        classes: Names of the labels, where the dataset does not tell them.
        held_out: Share of the rows to judge by where there is no split for it, of each class alike; 0: none.
        seed: Of that share.

    Returns:
        The second is `None` for a stream without a split to judge by, and with `held_out` 0.

    Raises:
        ValueError: for a split or a column that is not there.
        OSError: for data that is not there.
    """
    if Path(data, "dataset_dict.json").is_file() or Path(data, "state.json").is_file():
        if streaming:
            raise ValueError(f"{data} is a dataset on disk, which needs no streaming.")
        splits = datasets.load_from_disk(data)
        splits = splits if isinstance(splits, dict) else {train_split: splits}
    else:
        if data in _PACKAGED_DATASETS_MODULES and data_dir is None and data_files is None:
            raise ValueError(f"What {data} is to read is missing: name a folder by --data-dir, or --data-files.")
        # of a repository, the folder is looked for there
        folder = data_dir if data in _PACKAGED_DATASETS_MODULES else data if data.startswith((".", "/")) else None
        # datasets takes no address as a folder: it would look for one below the present folder
        if folder is not None and not Path(folder).expanduser().is_dir():
            raise FileNotFoundError(f"There is no folder {str(folder)!r}.")
        splits = datasets.load_dataset(
            data, config_name, data_dir=data_dir and str(data_dir), data_files=data_files, streaming=streaming
        )
    if val_split is None:
        val_split = next((name for name in HELD_OUT_SPLITS if name in splits and name != train_split), None)
    train = _describe(splits, train_split, data, image_column, label_column, classes)
    if classes is not None and train.classes != list(classes):
        raise ValueError(f"The classes of {train.title} are {_few(train.classes)}, not {_few(classes)}.")
    if val_split is not None:
        val = _describe(splits, val_split, data, image_column, label_column, classes or train.classes)
        if val.classes != train.classes:
            raise ValueError(
                f"The classes of {val.title}, {_few(val.classes)}, are not those of {train.title}, {_few(train.classes)}."
            )
        _warn_of_unlearned(train)
        return train, val
    if train.is_stream or held_out == 0:
        return train, None
    return _hold_out(train, held_out, seed)


def _describe(splits, split, data, image_column, label_column, classes) -> ImageTable:
    """A split with its columns and classes."""
    if split not in splits:
        raise ValueError(f"{data} has no split {split!r}: it has {_few(list(splits))}.")
    title, rows = f"{data} {split}", splits[split]
    if isinstance(rows, datasets.IterableDataset) and rows.features is None:
        rows = rows._resolve_features()  # from the first row
    features = rows.features
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    image_column = _choose(title, "image", image_column, images[:1] or ["image"], features)
    if rows.info.builder_name == "imagefolder" and list(features) == [image_column]:
        raise ValueError(
            f"{title} has no labels: there are no class folders, or only one. Put the images of each class in a folder "
            "of its own, all at one depth (cat/1.jpg, dog/2.jpg), or beside them a metadata.csv with the columns "
            "file_name and label."
        )
    named = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    usual = [name for name in LABEL_COLUMNS if name in features]
    label_column = _choose(title, "label", label_column, usual or (named if len(named) == 1 else []), features)
    feature = features[label_column]
    if isinstance(feature, datasets.ClassLabel):
        classes = feature.names
    elif classes is None:
        if isinstance(rows, datasets.IterableDataset):
            raise ValueError(
                f"A stream does not tell all labels of its column {label_column!r}: name them by --labels."
            )
        values = {value for value in rows.unique(label_column) if value is not None}
        classes = [str(value) for value in sorted(values)]
    if len(classes) < 2:
        raise ValueError(f"{title} has {len(classes)} classes in {label_column!r}, expected at least 2.")
    rows = rows.select_columns([image_column, label_column])
    if isinstance(features[image_column], datasets.Image):
        rows = rows.cast_column(image_column, datasets.Image(decode=False))
    return ImageTable(rows, title, image_column, label_column, list(classes))


def _choose(title, what, given, usual, features):
    name = given if given is not None else next(iter(usual), None)
    if name not in features:
        which = f"{name!r}" if name is not None else f"of a {what}"
        raise ValueError(f"{title} has no column {which}: it has {_few(list(features))}. Name it by --{what}-column.")
    return name


def _hold_out(table, share, seed):
    """Two tables of different rows; of each class with more than one row, the second has about this share."""
    rows_of = defaultdict(list)
    for row, label in enumerate(table.rows[table.label_column]):
        rows_of[label].append(row)
    generator, parts = np.random.default_rng(seed), ([], [])
    for rows in rows_of.values():
        generator.shuffle(rows)
        count = min(max(1, round(share * len(rows))), len(rows) - 1)
        parts[1].extend(rows[:count])
        parts[0].extend(rows[count:])
    if not all(parts):
        raise ValueError(f"No class of {table.title} has two images, so that none can be held out.")
    return tuple(
        replace(table, rows=table.rows.select(sorted(part)), title=f"{table.title} ({name})")
        for part, name in zip(parts, ("to learn from", "held out"))
    )


def _warn_of_unlearned(train):
    """Name the classes that are known, from other splits too, and not taught; a stream is not read for it."""
    if train.is_stream:
        return
    feature = train.rows.features[train.label_column]
    values = [value for value in train.rows.unique(train.label_column) if value is not None]
    taught = {feature.int2str(value) if isinstance(feature, datasets.ClassLabel) else str(value) for value in values}
    if untaught := [name for name in train.classes if name not in taught]:
        logger.warning("%s has no image of %s: what is not taught is not learned.", train.title, _few(untaught))


def _few(names):
    return ", ".join(map(str, names[:10])) + (", ..." if len(names) > 10 else "")
