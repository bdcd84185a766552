"""The graphs of the multimodal task models.

Shapes: B batch, T tokens, K encoded tokens, V vocabulary.
"""

import torch

from .graphs import Graph, TensorSpec, graphs_for
from .tensor_specs import stream_spec

MOST_ENCODED = 1 << 14  # tokens that a decoder reads


@graphs_for("MultiModalForRetrieval")
def retrieval(model) -> list[Graph]:
    """One graph per side, and the one that scores pairs if the model has it. A pair's score by the dual encoder is
    `logit_scale` times the product of the embeddings, plus `logit_bias`."""
    graphs = []
    for modality, config in model.config.encoders.items():

        def embed(model, modality=modality, **inputs):
            return {f"{modality}_embeds": model(**inputs, return_loss=False)[f"{modality}_embeds"]}

        graphs.append(Graph(f"{modality}_encoder", embed, *stream_spec(config, modality)))
    if model.matcher is not None:

        def match(model, **inputs):
            """Logits (B,) that text i belongs to picture i."""
            tokens, _ = model.model.encode(_streams(model, inputs))
            fused = model.model.fuse(tokens)
            return {"match_logits": model.matcher(model.model.pooling(fused.tokens, fused.attention_mask)).squeeze(-1)}

        graphs.append(Graph("matcher", match, *_all_streams(model.config)))
    return graphs


def score_constants(model) -> dict[str, float]:
    """What the scores of pairs are made with by products of embeddings: `logit_scale` and `logit_bias`."""
    if type(model).__name__ != "MultiModalForRetrieval":
        return {}
    from ...modeling_omni.multimodal.modeling_multimodal_retrieval import MAX_LOGIT_SCALE

    bias = 0.0 if model.logit_bias is None else model.logit_bias.item()
    return {"logit_scale": model.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp().item(), "logit_bias": bias}


@graphs_for("MultiModalForClassification", "MultiModalForVisualQuestionAnswering")
def classification(model) -> list[Graph]:
    def classify(model, **inputs):
        return {"logits": model(**inputs).logits}

    return [Graph("model", classify, *_all_streams(model.config))]


@graphs_for("MultiModalForImageGeneration")
def drawing(model) -> list[Graph]:
    def draw(model, **inputs):
        return {"pixel_values": model(**inputs).pixel_values}

    return [Graph("model", draw, *stream_spec(model.config.text_config, "text"))]


@graphs_for("MultiModalForCaptioning", "MultiModalForConditionalGeneration")
def writing(model) -> list[Graph]:
    """The encoders, and one step of the decoder over all tokens so far (no cache), which gives the next one's logits."""

    def encode(model, **inputs):
        encoded = model.encode_for_decoder(_streams(model, inputs))
        tokens, mask = encoded.last_hidden_state, encoded.attention_mask
        if mask is None:
            mask = torch.ones(tokens.shape[:2], dtype=torch.long)
        return {"encoder_hidden_states": tokens, "encoder_attention_mask": mask.long()}

    def decode(model, decoder_input_ids, encoder_hidden_states, encoder_attention_mask):
        encoded = {"last_hidden_state": encoder_hidden_states, "attention_mask": encoder_attention_mask.bool()}
        outputs = model(
            decoder_input_ids=decoder_input_ids, encoder_outputs=encoded, use_cache=False, logits_to_keep=1
        )
        return {"logits": outputs.logits[:, 0]}  # (B, V)

    decoder = model.config.decoder_config
    decoder_inputs = {
        "decoder_input_ids": TensorSpec(("batch", "target_length"), "tokens", decoder.vocab_size),
        "encoder_hidden_states": TensorSpec(("batch", "encoder_length", model.config.hidden_size)),
        "encoder_attention_mask": TensorSpec(("batch", "encoder_length"), "mask"),
    }
    axes = {"target_length": (1, decoder.max_position_embeddings), "encoder_length": (1, MOST_ENCODED)}
    return [
        Graph("encoder", encode, *_all_streams(model.config, [*model.model.encoders])),
        Graph("decoder", decode, decoder_inputs, axes),
    ]


@graphs_for("MultiModalTransformer")
def encoders(model) -> list[Graph]:
    def encode(model, **inputs):
        outputs = model(**inputs)
        named = {"last_hidden_state": outputs.last_hidden_state, "pooler_output": outputs.pooler_output}
        return {name: values for name, values in named.items() if values is not None}

    return [Graph("model", encode, *_all_streams(model.config, [*model.encoders]))]


def _all_streams(config, modalities=None):
    inputs, axes = {}, {}
    for modality in modalities or config.encoders:
        of_stream, ends = stream_spec(config.encoders[modality], modality)
        inputs |= of_stream
        axes |= ends
    return inputs, axes


def _streams(model, inputs):
    from ...modeling_omni.multimodal.stream_inputs import take_streams

    return take_streams(model.config, inputs)
