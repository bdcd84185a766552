"""
From single clips and items to batches.

B batch, L text tokens, F mel frames, M mel bands, T video frames, H and W pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ...configuration.modalities import AUDIO, MODALITIES, TEXT

TokenizerFn = Callable[[str, int], torch.Tensor]

_FIRST_BYTE_ID = 3  # after padding, BOS and EOS
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
    return torch.tensor(list(data), dtype=torch.long) + _FIRST_BYTE_ID


def tokenize(texts: Sequence[str], tokenizer_fn: TokenizerFn | None, max_text_length: int) -> torch.Tensor:
    """(B, L) long, padded with 0; L is at least 1."""
    rows = [(tokenizer_fn or encode_bytes)(text, max_text_length) for text in texts]
    return pad_text(rows)


def pad_text(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Token ids (L,) of each item as one (B, L) long, padded with 0."""
    out = torch.zeros(len(rows), max([1, *(len(row) for row in rows)]), dtype=torch.long)
    for number, row in enumerate(rows):
        out[number, : len(row)] = row
    return out


def collate_clips(
    columns: Mapping[str, Any], tokenizer_fn: TokenizerFn | None = None, max_text_length: int = 256
) -> dict[str, Any]:
    """
    Columns of clips, as workers return them, as a batch of tensors; see [`VideoLoader`] for what is in it.
    """
    texts = columns["text"]
    batch = {name: torch.from_numpy(columns[name]) for name in ("video", "image", "audio", "has_audio", "start")}
    batch["text"] = tokenize(texts, tokenizer_fn, max_text_length)
    batch["has_text"] = torch.tensor([bool(text) for text in texts])
    batch["path"] = list(columns["path"])
    return batch


def collate_multimodal(items: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """
    Batch items of any subset of the four modalities.

    Args:
        items: Dicts with some of `text` (L,) long, `audio` (M, F) log-mel, `image` (3, H, W), `video` (3, T, H, W).

    Returns:
        The same keys with a batch in front. Text is padded with 0, audio with silence (-1); where lengths of audio
        differ, `audio_mask` (B, F) bool is True on the real frames. Where only some items have a modality, the others
        are filled with padding and `has_<modality>` (B,) bool tells which are real: a loss must leave the rest out.

    Raises:
        ValueError: for an empty batch, an unknown key, a wrong number of dimensions, images, videos or mel bands of
            different sizes.

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
    _check_items(items)
    batch = {}
    for modality in MODALITIES:
        present = torch.tensor([item.get(modality) is not None for item in items])
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


def _check_items(items):
    for number, item in enumerate(items):
        unknown = [name for name in item if name not in MODALITIES]
        if unknown or not any(item.get(name) is not None for name in MODALITIES):
            raise ValueError(
                f"Item {number} has the keys {list(item)}: expected at least one, and only, of {', '.join(MODALITIES)}."
            )
        for name, value in item.items():
            if value is not None and value.ndim != _NUM_DIMS[name]:
                raise ValueError(
                    f"{name!r} of item {number} has shape {tuple(value.shape)}: expected {_NUM_DIMS[name]} dimensions."
                )


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
