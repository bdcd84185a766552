"""How modalities become one sequence, as data.

    [ sources: text ids, one placeholder per audio, image or video token | target marker, target slots ] ...

`lay_out` writes this sequence for the call `model("image", image, "text")`, `reconstruct`, `forward_multimodal`,
`generate` and the trainers; the processor writes the same one from text with placeholders, as transformers'
processors do. `lay_out` concatenates columns, so padding may stand anywhere in a row as long as `attention_mask` is 0
there. `token_type_ids` is the segment: 0 for sources, k for the
k-th target, -k for the k-th target's twin: the target written once more as a source that only sees itself, whose
embedding the contrastive loss compares with the sources'.

Shapes: B batch, T text tokens, F mel frames, M mel bins, C colours, N video frames, H and W pixels.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from einops import rearrange

from .configuration_omnilatent import OmniLatentConfig
from .modalities import (
    AUDIO,
    IGNORE_INDEX,
    IMAGE,
    MODALITIES,
    SOURCE_SEGMENT,
    TENSOR_NAMES,
    TEXT,
    VIDEO,
    check_modality,
)

AUDIO_STRIDE = 4  # mel frames of an audio token: two convolutions of stride 2


class Columns(NamedTuple):
    """Some columns of the batch's sequence, each field (B, columns)."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor


def lay_out(
    config: OmniLatentConfig,
    sources: Mapping[str, torch.Tensor],
    targets: Mapping[str, "torch.Tensor | tuple | int | None"],
    source_masks: Mapping[str, torch.Tensor] | None = None,
    target_masks: Mapping[str, torch.Tensor] | None = None,
    prefix: Mapping[str, torch.Tensor] | None = None,
    contrast: bool = False,
    target_starts: Mapping[str, float] | None = None,
) -> dict:
    """
    Write sources and targets into the keyword arguments of [`OmniLatentModel.forward`].

    Args:
        sources: tensor of each source modality: text (B, T) long with `pad_token_id` as padding, audio (B, M, F),
            image (B, C, H, W), video (B, C, N, H, W). Sources stand in the order text, audio, image, video.
        targets: for each target modality, in the order wanted, its tensor (as for sources; becomes the labels), its
            size without a tensor (audio: F, image: (H, W), video: (N, H, W)), or `None`: the config's default size,
            and for text the open beginning of a target that `generate` continues.
        source_masks, target_masks: by modality, True where real: text (B, T), audio (B, F), image (B, H, W), video
            (B, N, H, W). `None`: all real; for text, all that is not padding.
        prefix: `input_ids` and `attention_mask` of a sequence that is already there, before the sources.
        contrast: write the twin of every target that has a tensor and is no source as well.
        target_starts: by modality, seconds on the sources' clock at which an audio or video target begins, if not at
            0: what a video shows in its first second and what follows it are different targets.

    Returns:
        `input_ids`, `attention_mask`, `token_type_ids`, (B, columns) each; `labels` where text is a target with its
        tensor, and `logits_to_keep`, the columns of a text target; the tensors under their names in
        `forward`; `target_sizes`, the size of each target, () for text; `target_starts`; `twins`, the segments of the
        twins by modality.

    Raises:
        ValueError: for an unknown modality, a shape or size that the config cannot take, or unequal batch sizes.
    """
    source_masks, target_masks = source_masks or {}, target_masks or {}
    given = {name: target for name, target in targets.items() if isinstance(target, torch.Tensor)}
    for name, values in [*sources.items(), *given.items()]:
        check_values(config, name, values)
    first = prefix["input_ids"] if prefix else next(iter(sources.values()), None)
    if first is None:
        raise ValueError("No source: give at least one of " + ", ".join(MODALITIES) + ".")
    batches = {len(values) for values in (first, *sources.values(), *given.values())}
    if len(batches) > 1 or 0 in batches:
        raise ValueError(f"Batch sizes must agree and not be 0, got {sorted(batches)}.")
    batch, device = batches.pop(), first.device

    columns, segments, tensors, target_sizes, twins = [], [], {}, {}, {}
    if prefix is not None:
        columns.append(_prefix_columns(**prefix))
        segments.append(SOURCE_SEGMENT)
    for name in sorted(sources, key=MODALITIES.index):
        columns.append(_source_columns(config, name, sources[name], source_masks.get(name)))
        segments.append(SOURCE_SEGMENT)
        if name != TEXT:
            tensors |= _keywords(name, sources[name], source_masks.get(name), *TENSOR_NAMES[name][:2])
    for segment, (name, target) in enumerate(targets.items(), start=SOURCE_SEGMENT + 1):
        check_modality(name, "target")
        mask = target_masks.get(name)
        if name == TEXT:
            target_sizes[name] = ()
            new = _text_target_columns(config, target, mask, batch, device)
            start = sum(part.input_ids.shape[1] for part in columns)
            tensors["logits_to_keep"] = torch.arange(start, start + new.input_ids.shape[1], device=device)
        else:
            target_sizes[name] = target_size(config, name, target)
            new = _slot_columns(config, name, target_sizes[name], mask, batch, device)
            if name in given:
                tensors |= _keywords(name, target, mask, *TENSOR_NAMES[name][2:])
        columns.append(new)
        segments.append(segment)
        if contrast and name in given and name not in sources:
            twins[name] = -segment
    for name, segment in twins.items():
        columns.append(_source_columns(config, name, given[name], target_masks.get(name)))
        segments.append(segment)

    sequence = Columns(*(torch.cat(parts, dim=1) for parts in zip(*columns)))
    token_type_ids = [segment for segment, part in zip(segments, columns) for _ in range(part.input_ids.shape[1])]
    if TEXT in given:
        tensors["labels"] = sequence.labels
    return {
        "input_ids": sequence.input_ids,
        "attention_mask": sequence.attention_mask.long(),
        "token_type_ids": torch.tensor(token_type_ids, device=device).expand_as(sequence.input_ids),
        "target_sizes": target_sizes,
        "target_starts": dict(target_starts or {}),
        "twins": twins,
        **tensors,
    }


def as_keyword(name: str, values: torch.Tensor) -> torch.Tensor:
    """The tensor as `forward`'s keyword takes it: video goes from (B, C, N, H, W) to (B, N, C, H, W)."""
    return values.transpose(1, 2) if name == VIDEO else values


def token_mask(config: OmniLatentConfig, name: str, mask: torch.Tensor) -> torch.Tensor:
    """From a mask of frames or pixels the mask (B, tokens): a token is real if anything in it is.

    Args:
        mask: bool, audio (B, F), image (B, H, W), video (B, N, H, W).
    """
    if name == AUDIO:
        mask = torch.nn.functional.pad(mask, (0, -mask.shape[1] % AUDIO_STRIDE))
        return rearrange(mask, "b (n s) -> b n s", s=AUDIO_STRIDE).any(-1)
    if name == IMAGE:
        p = config.image_patch_size
        return rearrange(mask, "b (h p) (w q) -> b (h w) (p q)", p=p, q=p).any(-1)
    p = config.video_patch_size
    return rearrange(mask, "b (n t) (h p) (w q) -> b (n h w) (t p q)", t=config.video_tubelet_size, p=p, q=p).any(-1)


def token_grid(config: OmniLatentConfig, name: str, size: tuple[int, ...]) -> tuple[int, ...]:
    """Tokens along each axis of a modality of this size: audio (F,), image (H, W), video (N, H, W)."""
    if name == AUDIO:
        return (-(-size[0] // AUDIO_STRIDE),)
    if name == IMAGE:
        return tuple(side // config.image_patch_size for side in size)
    frames, *sides = size
    return (frames // config.video_tubelet_size, *(side // config.video_patch_size for side in sides))


def count_tokens(config: OmniLatentConfig, name: str, size: tuple[int, ...]) -> int:
    """Number of tokens, hence of placeholders or slots, of a modality of this size."""
    count = 1
    for tokens in token_grid(config, name, size):
        count *= tokens
    return count


def target_size(config: OmniLatentConfig, name: str, target=None) -> tuple[int, ...]:
    """Size of a target that is not text, from its tensor, a given size or, for `None`, the config's default."""
    if isinstance(target, torch.Tensor):
        return size_of(name, target)
    if target is None:
        return {
            AUDIO: (config.audio_target_length,),
            IMAGE: (config.image_size, config.image_size),
            VIDEO: (config.num_frames, config.video_size, config.video_size),
        }[name]
    size = (target,) if isinstance(target, int) else tuple(target)
    check_size(config, name, size)
    return size


def size_of(name: str, values: torch.Tensor) -> tuple[int, ...]:
    """(F,), (H, W) or (N, H, W) of a modality's tensor."""
    return tuple(values.shape[2:])


def check_size(config: OmniLatentConfig, name: str, size: tuple[int, ...]):
    """Raise a ValueError for a size that patches do not divide or that is above the config's maximum."""
    axes = {
        AUDIO: (("mel frames", 1, config.max_audio_frames),),
        IMAGE: ((f"pixels {side}", config.image_patch_size, config.max_image_size) for side in ("high", "wide")),
        VIDEO: (
            ("frames", config.video_tubelet_size, config.max_frames),
            *((f"pixels {side}", config.video_patch_size, config.max_image_size) for side in ("high", "wide")),
        ),
    }[name]
    axes = tuple(axes)
    if len(size) != len(axes):
        raise ValueError(f"The size of {name} has {len(axes)} numbers, got {tuple(size)}.")
    for value, (what, divisor, maximum) in zip(size, axes):
        if value < 1 or value % divisor != 0:
            raise ValueError(f"{name}: {value} {what} cannot be divided into tokens of {divisor}.")
        if value > maximum:
            raise ValueError(f"{name}: {value} {what}, but the model takes at most {maximum}.")


def check_values(config: OmniLatentConfig, name: str, values: torch.Tensor):
    """Raise a ValueError unless `values` is a tensor of this modality that the config can take."""
    check_modality(name)
    expected = {
        TEXT: "(batch, tokens)",
        AUDIO: f"(batch, {config.num_mel_bins}, frames)",
        IMAGE: f"(batch, {config.num_channels}, height, width)",
        VIDEO: f"(batch, {config.num_channels}, frames, height, width)",
    }[name]
    if not isinstance(values, torch.Tensor):
        raise ValueError(f"{name} must be a tensor of shape {expected}, got {type(values).__name__}.")
    channels = {TEXT: None, AUDIO: config.num_mel_bins}.get(name, config.num_channels)
    if values.ndim != expected.count(",") + 1 or (channels is not None and values.shape[1] != channels):
        raise ValueError(f"{name} must have shape {expected}, got {tuple(values.shape)}.")
    if name != TEXT:
        if not values.is_floating_point():
            raise ValueError(f"{name} must be a floating-point tensor, got {values.dtype}.")
        check_size(config, name, size_of(name, values))
        return
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise ValueError(f"text must be a tensor of token ids, got {values.dtype}.")
    if values.shape[1] > config.max_text_length:
        raise ValueError(f"text: {values.shape[1]} tokens, but the model takes at most {config.max_text_length}.")
    if values.device.type == "cpu" and values.numel() and not 0 <= values.min() <= values.max() < config.vocab_size:
        # on a GPU the look would make every step wait for the device
        raise ValueError(f"text ids lie in {values.min()}..{values.max()}, outside 0..{config.vocab_size - 1}.")


def _keywords(name, values, mask, values_name, mask_name) -> dict[str, torch.Tensor]:
    """A modality's tensor, and its mask if it has one, under their names in `forward`."""
    tensors = {values_name: as_keyword(name, values)}
    return tensors if mask is None else {**tensors, mask_name: mask.bool()}


def _prefix_columns(input_ids, attention_mask=None) -> Columns:
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    return Columns(input_ids, mask.bool(), torch.full_like(input_ids, IGNORE_INDEX))


def _source_columns(config, name, values, mask) -> Columns:
    if name == TEXT:
        ids = values.long()
        mask = ids != config.pad_token_id if mask is None else _checked(mask, ids.shape, "mask of text")
    else:
        shape = (len(values), *size_of(name, values))
        mask = values.new_ones(shape, dtype=torch.bool) if mask is None else _checked(mask, shape, f"mask of {name}")
        mask = token_mask(config, name, mask)
        ids = torch.full_like(mask, getattr(config, f"{name}_token_id"), dtype=torch.long)
    ids = ids.masked_fill(~mask, config.pad_token_id)
    return Columns(ids, mask, torch.full_like(ids, IGNORE_INDEX))


def _slot_columns(config, name, size, mask, batch, device) -> Columns:
    if mask is None:
        mask = torch.ones(batch, count_tokens(config, name, size), dtype=torch.bool, device=device)
    else:
        mask = token_mask(config, name, _checked(mask, (batch, *size), f"mask of target {name}"))
    slots = torch.full_like(mask, getattr(config, f"{name}_slot_token_id"), dtype=torch.long)
    marker = torch.full_like(slots[:, :1], getattr(config, f"{name}_target_token_id"))
    ids = torch.cat([marker, slots.masked_fill(~mask, config.pad_token_id)], dim=1)
    mask = torch.cat([torch.ones_like(mask[:, :1]), mask], dim=1)
    return Columns(ids, mask, torch.full_like(ids, IGNORE_INDEX))


def _text_target_columns(config, target, mask, batch, device) -> Columns:
    """Marker, BOS, and with a tensor its tokens and EOS. Padding is moved behind each row's EOS."""
    start = torch.tensor([[config.text_target_token_id, config.bos_token_id]], device=device).expand(batch, -1)
    real = torch.ones_like(start, dtype=torch.bool)
    if target is None:
        return Columns(start, real, torch.full_like(start, IGNORE_INDEX))
    ids = target.long()
    mask = ids != config.pad_token_id if mask is None else _checked(mask, ids.shape, "mask of target text")
    ids = ids.gather(1, torch.argsort((~mask).to(torch.uint8), dim=1, stable=True))
    length = mask.sum(dim=1, keepdim=True)
    eos = config.eos_token_id if isinstance(config.eos_token_id, int) else config.eos_token_id[0]
    ids = torch.cat([ids, ids.new_full((len(ids), 1), eos)], dim=1).scatter(1, length, eos)
    mask = torch.arange(ids.shape[1], device=ids.device) <= length
    return Columns(
        torch.cat([start, ids.masked_fill(~mask, config.pad_token_id)], dim=1),
        torch.cat([real, mask], dim=1),
        torch.cat([torch.full_like(start, IGNORE_INDEX), ids.masked_fill(~mask, IGNORE_INDEX)], dim=1),
    )


def _checked(mask, shape, what) -> torch.Tensor:
    if tuple(mask.shape) != tuple(shape):
        raise ValueError(f"The {what} must have shape {tuple(shape)}, got {tuple(mask.shape)}.")
    return mask.bool()
