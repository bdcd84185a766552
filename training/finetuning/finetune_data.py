"""Where the samples of `omnilatent finetune` come from."""

from pathlib import Path

from ..data import EncodedDataset, MultiModalDataset, SampleStream

MEMORY = 2**30  # bytes of encoded samples that are kept without being asked


def open_source(name: str, streaming: bool = False):
    """
    What `MultiModalDataset` reads.

    Args:
        name: Path of a JSON file; a folder written by `datasets.save_to_disk`; or a dataset on the Hub, or a folder that
            `datasets.load_dataset` reads, with its split behind a colon.
        streaming: Read a dataset as it comes.

    Raises:
        FileNotFoundError: for a file that is not there.
        ValueError: for a dataset without a split.
    """
    path = Path(name)
    if path.is_file() or path.suffix in (".json", ".jsonl"):
        return path
    from datasets import load_dataset, load_from_disk

    if (path / "dataset_info.json").is_file():
        table = load_from_disk(str(path))
        return table.to_iterable_dataset() if streaming else table
    repository, _, split = name.rpartition(":")
    if not repository or not split:
        raise ValueError(f"{name!r} is no JSON file; for a dataset name its split as well, as in '{name}:train'.")
    return load_dataset(repository, split=split, streaming=streaming)


def open_samples(
    dataset_class: type[MultiModalDataset],
    name: str,
    streaming: bool = False,
    max_bad_fraction: float = 0.5,
    seed: int | None = None,
    buffer_size: int = 1000,
    **settings,
) -> MultiModalDataset | SampleStream:
    """
    The samples of a task; `settings` as of the class.

    Args:
        seed: Of the order of a stream, which is another each epoch. `None`: as it comes.
        buffer_size: Records among which the next of a stream is drawn.
    """
    source = open_source(name, streaming)
    if streaming and not hasattr(source, "__len__") and not isinstance(source, Path):
        if seed is not None:
            source = source.shuffle(seed=seed, buffer_size=buffer_size)
        return dataset_class.stream(source, **settings)
    return dataset_class(source, max_bad_fraction=max_bad_fraction, **settings)


def fit_in_memory(samples, collator, most: int = MEMORY):
    """Samples encoded once, if all of them take fewer bytes than that and none is drawn anew; otherwise as they are."""
    if isinstance(samples, SampleStream) or any(map(collator.draws, samples.samples)):
        return samples
    (one,) = collator.encode([samples[0]])
    size = sum(values.nbytes for values in one.values() if hasattr(values, "nbytes"))
    return EncodedDataset(samples, collator) if size * len(samples) <= most else samples
