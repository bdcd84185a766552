"""One encoder of a multimodal model: the library's own, or a tower of transformers.

Shapes: B batch, N tokens, D hidden size.
"""

from transformers import PreTrainedConfig, PreTrainedModel

from ...configuration.configuration_multimodal import EncoderConfig
from ..towers.tower_tokens import read_audio, read_text, read_vision
from ..towers.towers import make_tower
from .stream_inputs import Stream
from .token_encoder import EncoderOutput, TokenEncoder, as_numbers

TOWER_MODALITIES = {"text": "text", "image": "vision", "video": "vision", "audio": "audio"}


def make_encoder_of(config: PreTrainedConfig, modality: str) -> PreTrainedModel:
    """The encoder of a config, with new weights."""
    if isinstance(config, EncoderConfig):
        return TokenEncoder._from_config(config)
    return make_tower(config, TOWER_MODALITIES[modality])


def encode_stream(encoder: PreTrainedModel, modality: str, stream: Stream, **kwargs) -> EncoderOutput:
    """The tokens of a stream, and which of them are real.

    Raises:
        ValueError: for features where a tower reads raw inputs, and shapes that do not fit.
    """
    if isinstance(encoder, TokenEncoder):
        name = "features" if stream.are_features else stream.name
        return encoder(**{name: stream.values, "attention_mask": stream.attention_mask}, return_dict=True, **kwargs)
    if stream.are_features:
        raise ValueError(
            f"`{stream.name}` was given, but {type(encoder).__name__} reads `{encoder.main_input_name}`: features need "
            "an `EncoderConfig` with `feature_size`."
        )
    read = {"text": read_text, "audio": read_audio}.get(modality, read_vision)
    tokens = read(encoder, stream.values, stream.attention_mask)
    return EncoderOutput(last_hidden_state=tokens.features, attention_mask=as_numbers(tokens.attention_mask))
