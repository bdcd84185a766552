"""Telling one sample's sources from the next: lists, and lists of lists."""

import numpy as np

from .media import is_media_source


def text_samples(text, sources) -> list[str]:
    """One string for each sample; empty ones without text."""
    if text is None:
        sizes = {modality: len(per_sample or items) for modality, (items, per_sample) in sources.items() if items}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"Without text, each sample needs one of everything; got {sizes}.")
        return [""] * max(sizes.values(), default=1)
    samples = [text] if isinstance(text, str) else list(text)
    if not samples or not all(isinstance(sample, str) for sample in samples):
        raise ValueError("`text` must be a string or a list of strings, and not empty.")
    return samples


def lengths_if_nested(items) -> list[int] | None:
    """Items of each sample in a list of lists; `None` for one list."""
    if isinstance(items, (list, tuple)) and items and all(isinstance(item, (list, tuple)) for item in items):
        return [len(item) for item in items]
    return None


def is_nested_videos(videos) -> bool:
    """Whether there is a list of videos for each sample; a list of lists of pictures is one of videos."""
    if lengths_if_nested(videos) is None:
        return False
    first = next((item[0] for item in videos if item), None)
    return is_media_source(first) or isinstance(first, (list, tuple)) or getattr(first, "ndim", 0) == 4


def is_list_of_clips(item) -> bool:
    """Whether this is a list of clips, and neither an array nor a list of samples."""
    return isinstance(item, (list, tuple)) and (len(item) == 0 or is_media_source(item[0]) or np.ndim(item[0]) > 0)


def refuse_missing(items, name: str) -> None:
    """Raise a ValueError that says how to leave a source out of one sample."""
    if isinstance(items, (list, tuple)) and any(item is None for item in items):
        raise ValueError(
            f"`{name}` holds None. Where only some samples have {name}, pass a list for each: [[first], [], ...]."
        )
