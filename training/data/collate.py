"""
From single clips and items to batches.

B batch, L text tokens, F mel frames, M mel bands, T video frames, H and W pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ...configuration.modalities import AUDIO, FIRST_BYTE_ID, MODALITIES, TEXT
from .skips import NoUsableClipsError

TokenizerFn = Callable[[str, int], torch.Tensor]

_SILENCE = -1.0  # of a log-mel spectrogram
_NUM_DIMS = {"text": 1, "audio": 2, "image": 3, "video": 4}  # of one item


def encode_bytes(text: str, max_len: int) -> torch.Tensor:
    """
    UTF-8 bytes as ids, byte b as 3 + b; what `OmniLatentTokenizer` does, without what it takes to load it.

    Args:
        text: Any text.
        max_len: Most ids; a character that would be cut in two is left out.

    Example:

    ```python
    >>> from omnilatent.training.data import encode_bytes

    >>> encode_bytes("Hi", 16)
    tensor([ 75, 108])
    ```
    """
    data = text.encode("utf-8", errors="replace")
    if len(data) > max_len:
        data = data[:max_len].decode("utf-8", errors="ignore").encode()
    return torch.tensor(list(data), dtype=torch.long) + FIRST_BYTE_ID


def encode_texts(
    texts: Sequence[str], tokenizer_fn: TokenizerFn | None, max_text_length: int
) -> tuple[torch.Tensor, list[int]]:
    """
    Returns:
        The ids (B, L) long, padded with 0, L at least 1; and the numbers of the texts that had to be cut.
    """
    tokenizer_fn = tokenizer_fn or encode_bytes
    rows = [tokenizer_fn(text, max_text_length) for text in texts]
    cut = [i for i, row in enumerate(rows) if _was_cut(texts[i], row, tokenizer_fn, max_text_length)]
    return pad_text(rows), cut


def _was_cut(text, ids, tokenizer_fn, max_text_length):
    """Whether more ids come where there is room for one more character, which may have four bytes."""
    if len(ids) <= max_text_length - 4:
        return False
    return tokenizer_fn(text, max_text_length + 4).count_nonzero() > ids.count_nonzero()


def pad_text(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Token ids (L,) of each item as one (B, L) long, padded with 0."""
    out = torch.zeros(len(rows), max([1, *(len(row) for row in rows)]), dtype=torch.long)
    for number, row in enumerate(rows):
        out[number, : len(row)] = row
    return out


def collate_clips(columns: Mapping[str, Any], text: torch.Tensor) -> dict[str, Any]:
    """
    Columns of clips, as workers return them, as a batch of tensors; see [`VideoLoader`] for what is in it. `text` are
    the ids of their words.
    """
    batch = {name: torch.from_numpy(columns[name]) for name in ("video", "image", "audio", "has_audio", "start")}
    batch["text"] = text
    batch["has_text"] = torch.tensor([bool(words) for words in columns["text"]])
    batch["path"] = list(columns["path"])
    return batch


def collate_multimodal(items: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    """
    Batch items of any subset of the four modalities.

    Args:
        items: Dicts with some of `text` (L,) integers, `audio` (M, F) log-mel, `image` (3, H, W) and
            `video` (3, T, H, W) float in [-1, 1], or uint8 as [`to_model_inputs`] takes it (`video` (T, 3, H, W)); as
            tensors, arrays or nested lists. Other keys, like an `id`, are left out. `None` is an item that could not
            be read, as [`VideoWatchingDataset`] gives it.

    Returns:
        The same keys with a batch in front, of the items that could be read; `dropped`, the number of the others if
        there are any. Text is padded with 0, audio with silence (-1); where lengths of audio
        differ, `audio_mask` (B, F) bool is True on the real frames. Where only some items have a modality, the others
        are filled with padding and `has_<modality>` (B,) bool tells which are real: a loss must leave the rest out.

    Raises:
        ValueError: for an empty batch, an item without any of the four, a value that is no tensor, a wrong type or
            number of dimensions, images, videos or mel bands of different sizes; its subclass `NoUsableClipsError`
            when no item could be read.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent.training.data import collate_multimodal

    >>> batch = collate_multimodal([{"text": torch.tensor([5, 6, 7])}, {"text": torch.tensor([8])}])
    >>> batch["text"].tolist()
    [[5, 6, 7], [8, 0, 0]]
    ```
    """
    if not items:
        raise ValueError("Cannot make a batch of no items.")
    readable = [_read_item(number, item) for number, item in enumerate(items) if item is not None]
    if not readable:
        raise NoUsableClipsError(f"None of the {len(items)} items of a batch could be read.")
    batch = _join_items(readable)
    return batch if len(readable) == len(items) else {**batch, "dropped": len(items) - len(readable)}


def _join_items(items):
    batch = {}
    for modality in MODALITIES:
        present = torch.tensor([modality in item for item in items])
        if not present.any():
            continue
        values = [item.get(modality) for item in items]
        if not present.all():
            empty = next(value for value in values if value is not None).new_zeros(0)
            values = [empty if value is None else value for value in values]
            batch[f"has_{modality}"] = present
        if modality == TEXT:
            batch[modality] = pad_text(values)
        elif modality == AUDIO:
            batch.update(_pad_audio(values))
        else:
            batch[modality] = _stack_equal(modality, values)
    return batch


def _read_item(number, item) -> dict[str, torch.Tensor]:
    """The modalities of an item as tensors."""
    if not isinstance(item, Mapping):
        raise ValueError(f"Item {number} is of type {type(item).__name__}: expected a dict.")
    values = {name: item[name] for name in MODALITIES if item.get(name) is not None}
    if not values:
        raise ValueError(f"Item {number} has the keys {list(item)}: expected at least one of {', '.join(MODALITIES)}.")
    return {name: _read_value(f"{name!r} of item {number}", name, value) for name, value in values.items()}


def _read_value(what, modality, value):
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{what} is of type {type(value).__name__} and cannot become a tensor: {error}") from error
    if tensor.ndim != _NUM_DIMS[modality]:
        raise ValueError(f"{what} has shape {tuple(tensor.shape)}: expected {_NUM_DIMS[modality]} dimensions.")
    if modality == TEXT:
        if tensor.numel() and (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool):
            raise ValueError(f"{what} is of type {tensor.dtype}: expected integers, the ids of tokens.")
        return tensor.long()
    if tensor.dtype == torch.uint8 and modality != AUDIO:
        return tensor
    if not tensor.is_floating_point():
        expected = "a log-mel spectrogram in floats" if modality == AUDIO else "floats in [-1, 1], or uint8"
        raise ValueError(f"{what} is of type {tensor.dtype}: expected {expected}.")
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def _pad_audio(values):
    real = [value for value in values if value.ndim == 2]
    if len({value.shape[0] for value in real}) > 1:
        raise ValueError(f"Audio of different numbers of mel bands: {sorted({value.shape[0] for value in real})}.")
    lengths = [value.shape[-1] for value in values]
    audio = real[0].new_full((len(values), real[0].shape[0], max(lengths)), _SILENCE)
    for number, value in enumerate(values):
        if value.ndim == 2:
            audio[number, :, : value.shape[-1]] = value
    if len({value.shape[-1] for value in real}) == 1:
        return {"audio": audio}
    return {"audio": audio, "audio_mask": torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]}


def _stack_equal(modality, values):
    shapes = {tuple(value.shape) for value in values if value.ndim > 1}
    if len(shapes) > 1:
        raise ValueError(f"Items of different sizes in {modality!r}: {sorted(shapes)}; resize them to one.")
    (shape,) = shapes
    return torch.stack([value if value.ndim > 1 else value.new_zeros(shape) for value in values])
