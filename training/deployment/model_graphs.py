"""The graphs of models of one modality, and of aligners."""

from .graphs import Graph, TensorSpec, graphs_for
from .tensor_specs import frames_spec, picture_spec, sound_spec, text_spec


@graphs_for("RelPosViTForImageClassification")
def image_classification(model) -> list[Graph]:
    def classify(model, **inputs):
        return {"logits": model(**inputs).logits}

    return [Graph("model", classify, {"pixel_values": picture_spec(model.config)})]


@graphs_for("RelPosViTModel")
def image_embedding(model) -> list[Graph]:
    def embed(model, **inputs):
        return {"image_embeds": model(**inputs).pooler_output}

    return [Graph("image_encoder", embed, {"pixel_values": picture_spec(model.config)})]


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
        spec, axes = frames_spec(towers["vision"])
        graphs.append(Graph("video_encoder", embed_video, {"pixel_values_videos": spec}, axes))
    if "audio" in towers:
        spec, axes = sound_spec(towers["audio"])
        graphs.append(Graph("audio_encoder", embed_audio, {"input_values": spec}, axes))
    if "text" in towers:
        inputs, axes = text_spec(towers["text"])
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
