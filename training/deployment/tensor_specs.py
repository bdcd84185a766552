"""What the encoders of a model read, told by their configs.

Shapes: B batch, C channels, T frames, N tokens, F width of features, M mel bands.
"""

from .graphs import TensorSpec

MOST_SAMPLES = 16_000 * 60  # 60 s at 16 kHz
MOST_FRAMES = 512

Inputs = dict[str, TensorSpec]
Axes = dict[str, tuple[int, ...]]  # by name: least and greatest length, and what divides it if not 1


def stream_spec(config, modality: str) -> tuple[Inputs, Axes]:
    """The inputs of one stream of a multimodal model, under the names that its `forward` has for them."""
    if modality == "text":
        return text_spec(config)
    longest = getattr(config, "max_position_embeddings", None)
    if modality in ("image", "video") and getattr(config, "image_size", None) is not None:
        if modality == "image":
            return {"pixel_values": picture_spec(config)}, {}
        spec, axes = frames_spec(config)
        return {"pixel_values_videos": spec}, axes
    if modality == "audio" and getattr(config, "feature_size", None) is None:
        if config.model_type != "multimodal_encoder":
            spec, axes = sound_spec(config)
            return {"input_features": spec}, axes
        ends = 8, 4 * longest, 4  # four frames make a token
        return _with_mask("input_features", ("batch", config.num_mel_bins, "frames"), "audio", ends)
    return _with_mask(
        f"{modality}_features", ("batch", f"{modality}_tokens", config.feature_size), modality, (1, longest)
    )


def _with_mask(name, shape, modality, ends):
    (axis,) = (part for part in shape[1:] if isinstance(part, str))
    mask = TensorSpec(("batch", axis), "mask")
    return {name: TensorSpec(shape), f"{modality}_attention_mask": mask}, {axis: ends}


def picture_spec(config) -> TensorSpec:
    """(B, C, H, W), or (B, T, C, H, W) for a model of videos; of the size that the model is made for."""
    height, width = _pair(config.image_size)
    frames = () if getattr(config, "num_frames", None) is None else (config.num_frames,)
    return TensorSpec(("batch", *frames, getattr(config, "num_channels", 3), height, width))


def frames_spec(config) -> tuple[TensorSpec, Axes]:
    """(B, T, C, H, W): as many frames as a video tower is made for; any number for a tower of images."""
    height, width = _pair(config.image_size)
    size = getattr(config, "num_channels", 3), height, width
    frames = getattr(config, "num_frames", None)
    if frames is not None:
        return TensorSpec(("batch", frames, *size)), {}
    return TensorSpec(("batch", "frames", *size)), {"frames": (1, MOST_FRAMES)}


def sound_spec(config) -> tuple[TensorSpec, Axes]:
    """Waveforms (B, samples) of any length, or spectrograms of the length that the tower is made for."""
    if hasattr(config, "conv_stride"):  # wav2vec 2.0 and its kin; shorter ones vanish in the convolutions
        return TensorSpec(("batch", "samples")), {"samples": (1600, MOST_SAMPLES)}
    bands = getattr(config, "num_mel_bins", None)
    if bands is not None and hasattr(config, "max_length") and hasattr(config, "time_stride"):
        return TensorSpec(("batch", config.max_length, bands)), {}
    if bands is not None and hasattr(config, "max_source_positions"):  # Whisper's convolutions halve the length
        return TensorSpec(("batch", bands, 2 * config.max_source_positions)), {}
    raise ValueError(
        f"An audio tower of {type(config).__name__} cannot be exported: expected one that reads waveforms (wav2vec 2.0), "
        "or spectrograms as AST or Whisper do."
    )


def text_spec(config) -> tuple[Inputs, Axes]:
    inputs = {
        "input_ids": TensorSpec(("batch", "text_length"), "tokens", config.vocab_size),
        "attention_mask": TensorSpec(("batch", "text_length"), "mask"),
    }
    return inputs, {"text_length": (1, getattr(config, "max_position_embeddings", None) or 4096)}


def _pair(size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)
