"""The graphs of each kind of model.

Shapes: B batch, C channels, T frames, N tokens.
"""

from .graphs import Graph, TensorSpec, graphs_for

MOST_SAMPLES = 16_000 * 60  # 60 s at 16 kHz
MOST_FRAMES = 512


@graphs_for("RelPosViTForImageClassification")
def image_classification(model) -> list[Graph]:
    def classify(model, **inputs):
        return {"logits": model(**inputs).logits}

    return [Graph("model", classify, {"pixel_values": _picture(model.config)})]


@graphs_for("RelPosViTModel")
def image_embedding(model) -> list[Graph]:
    def embed(model, **inputs):
        return {"image_embeds": model(**inputs).pooler_output}

    return [Graph("image_encoder", embed, {"pixel_values": _picture(model.config)})]


@graphs_for("AudioVisualAligner")
def aligned_towers(model) -> list[Graph]:
    """One graph per tower: the embeddings are compared by their products."""

    def embed_video(model, pixel_values_videos):
        return {"video_embeds": model.encode_video(pixel_values_videos)}

    def embed_audio(model, input_values):
        return {"audio_embeds": model.encode_audio(input_values)}

    def embed_text(model, input_ids, attention_mask):
        return {"text_embeds": model.encode_text(input_ids, attention_mask)}

    towers = model.config.towers
    graphs = []
    if "vision" in towers:
        spec, axes = _frames(towers["vision"])
        graphs.append(Graph("video_encoder", embed_video, {"pixel_values_videos": spec}, axes))
    if "audio" in towers:
        spec, axes = _sound(towers["audio"])
        graphs.append(Graph("audio_encoder", embed_audio, {"input_values": spec}, axes))
    if "text" in towers:
        inputs, axes = _text(towers["text"])
        graphs.append(Graph("text_encoder", embed_text, inputs, axes))
    return graphs


@graphs_for("OmniNetModel")
def aligned_features(model) -> list[Graph]:
    """One graph per stream of features."""
    graphs = []
    for name, size in model.config.streams.items():

        def embed(model, features, attention_mask, name=name):
            return {f"{name}_embeds": model.embed(name, features, attention_mask.bool())}

        inputs = {
            "features": TensorSpec(("batch", "tokens", size)),
            "attention_mask": TensorSpec(("batch", "tokens"), "mask"),
        }
        graphs.append(Graph(f"{name}_encoder", embed, inputs, {"tokens": (1, 4096)}))
    return graphs


# --- tensors -----------------------------------------------------------------------------------------------------


def _picture(config) -> TensorSpec:
    """(B, C, H, W), or (B, T, C, H, W) for a model of videos; of the size that the model is made for."""
    height, width = _pair(config.image_size)
    frames = () if getattr(config, "num_frames", None) is None else (config.num_frames,)
    return TensorSpec(("batch", *frames, getattr(config, "num_channels", 3), height, width))


def _frames(config) -> tuple[TensorSpec, dict[str, tuple[int, int]]]:
    """(B, T, C, H, W): as many frames as a video tower is made for; any number for a tower of images."""
    height, width = _pair(config.image_size)
    size = getattr(config, "num_channels", 3), height, width
    frames = getattr(config, "num_frames", None)
    if frames is not None:
        return TensorSpec(("batch", frames, *size)), {}
    return TensorSpec(("batch", "frames", *size)), {"frames": (1, MOST_FRAMES)}


def _sound(config) -> tuple[TensorSpec, dict[str, tuple[int, int]]]:
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


def _text(config) -> tuple[dict[str, TensorSpec], dict[str, tuple[int, int]]]:
    inputs = {
        "input_ids": TensorSpec(("batch", "text_length"), "tokens", config.vocab_size),
        "attention_mask": TensorSpec(("batch", "text_length"), "mask"),
    }
    return inputs, {"text_length": (1, getattr(config, "max_position_embeddings", None) or 4096)}


def _pair(size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)
