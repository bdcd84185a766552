"""Two encoders and a fusion: what the multimodal task models are built around.

Shapes: B batch, S tokens, D hidden size of the fusion.
"""

import copy
import os

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import can_return_tuple

from ...configuration.configuration_audio_visual_aligner import feature_size
from ...configuration.configuration_multimodal import SECOND_MODALITIES, MultiModalConfig
from ..fusion import make_fusion
from ..fusion.fused_tokens import FusedTokens, make_pooling
from ..layers.init_std import draw_marked
from ..towers.towers import SavesOwnNames, open_tower
from .encoding import TOWER_MODALITIES, encode_stream, make_encoder_of
from .kernel_setting import SetsKernelsOfParts
from .multimodal_outputs import MultiModalOutput
from .starting_weights import start_layer
from .stream_inputs import Stream, reads_streams
from .token_encoder import EncoderOutput, TokenEncoder, as_numbers


class MultiModalPreTrainedModel(SavesOwnNames, SetsKernelsOfParts, PreTrainedModel):
    config: MultiModalConfig
    config_class = MultiModalConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("text", *SECOND_MODALITIES)
    supports_gradient_checkpointing = True
    _no_split_modules = ["TransformerBlock", "DecoderBlock", "CoAttentionLayer", "BottleneckLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    writes_text: bool | None = False  # whether the model has a decoder and `generate`; `None`: it leaves that open
    accepts_loss_kwargs = False  # our losses are means over the micro-batch: Trainer averages the micro-batches

    def __init__(self, config: MultiModalConfig):
        if self.writes_text is not None and config.is_encoder_decoder != self.writes_text:
            config = copy.deepcopy(config)  # the same config may make a model of another task
            config.is_encoder_decoder = self.writes_text
        super().__init__(config)

    @classmethod
    def from_pretrained_encoders(
        cls,
        text: PreTrainedModel | PreTrainedConfig | str | os.PathLike | None = None,
        image: PreTrainedModel | PreTrainedConfig | str | os.PathLike | None = None,
        audio: PreTrainedModel | PreTrainedConfig | str | os.PathLike | None = None,
        video: PreTrainedModel | PreTrainedConfig | str | os.PathLike | None = None,
        **settings,
    ):
        """
        A new model around encoders that are there already.

        Args:
            text, image, audio, video: A model that has such an encoder, which is taken out of it; the name of one on
                the Hub or a folder; or a config, for an encoder with new weights. One of image, audio and video. `None`:
                an encoder of ours with new weights.
            settings: As in [`MultiModalConfig`].

        Raises:
            ValueError: for what is no encoder of its modality, one without the class token that the pooling asks for,
                and settings that do not exist.
        """
        given = {"text": text, "image": image, "audio": audio, "video": video}
        encoders = {
            name: open_tower(encoder, TOWER_MODALITIES[name]) for name, encoder in given.items() if encoder is not None
        }
        for name in encoders:
            if f"{name}_config" in settings:
                raise ValueError(f"`{name}_config` is the encoder's, which brings it.")
        kernels = {f"{name}_config": encoder.config._attn_implementation for name, encoder in encoders.items()}
        config = MultiModalConfig(
            **{f"{name}_config": encoder.config for name, encoder in encoders.items()},
            # a config hands its own down to its parts, but an encoder has one already
            attn_implementation=settings.pop("attn_implementation", kernels),
            **settings,
        )
        for name, encoder in encoders.items():
            lacks_token = isinstance(encoder, TokenEncoder) and encoder.class_token is None
            if lacks_token and config.encoders[name].use_class_token:
                raise ValueError(
                    f"Pooling of kind 'cls' reads a class token, which the given {name} encoder lacks: make it of an "
                    "`EncoderConfig` with `use_class_token=True`, or pool by 'mean' or 'attention'."
                )
        return cls(config, encoders=encoders)

    @property
    def _supports_relative_attn(self) -> bool:
        return not self.config.is_encoder_decoder  # a decoder is causal

    def _init_weights(self, module):
        super()._init_weights(module)
        start_layer(module)
        draw_marked(module, self.config.initializer_range)

    def get_encoder(self, modality: str | None = None):
        """The encoder of a modality; without one, what `generate` calls for the tokens that a decoder reads."""
        base = self.base_model
        return base if modality is None else base.encoders[modality]


class MultiModalTransformer(MultiModalPreTrainedModel):
    r"""
    Encoders of text and of a second modality, and the fusion of their tokens.

    Args:
        config: Its shape.
        reads: Modalities that are encoded; `None`: both.
        fuses: Whether the streams are fused; where they are not, a model around this one reads them one by one.
        pools: Whether the tokens become one vector as well.
        encoders: Encoders that are there already, by modality; those that are not are made from the config.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent import MultiModalConfig, MultiModalTransformer

    >>> model = MultiModalTransformer(MultiModalConfig.tiny())
    >>> text, image = torch.randint(3, 259, (2, 7)), torch.randn(2, 3, 48, 48)
    >>> output = model(input_ids=text, pixel_values=image)
    >>> output.last_hidden_state.shape[:2], output.pooler_output.shape == (2, model.config.hidden_size)
    (torch.Size([2, 43]), True)
    ```
    """

    writes_text = None  # the models around this one say

    def __init__(
        self,
        config: MultiModalConfig,
        reads: tuple[str, ...] | None = None,
        fuses: bool = True,
        pools: bool = True,
        encoders: dict[str, PreTrainedModel] | None = None,
    ):
        super().__init__(config)
        config = self.config
        reads = tuple(config.encoders) if reads is None else reads
        given = encoders or {}
        hidden_size = config.hidden_size
        self.projections = nn.ModuleDict()
        for name in reads:
            part = config.encoders[name]
            # attributes and no ModuleDict: transformers looks for tied weights in direct children
            setattr(self, f"{name}_encoder", given.get(name) or make_encoder_of(part, name))
            width = feature_size(part)
            self.projections[name] = nn.Linear(width, hidden_size) if width != hidden_size else nn.Identity()
        self.fusion = make_fusion(config.fusion, kernel=config) if fuses else None
        self.pooling = make_pooling(config.fusion) if pools else None
        self.post_init()

    @property
    def encoders(self) -> dict[str, PreTrainedModel]:
        """The encoders by modality."""
        return {name: getattr(self, f"{name}_encoder") for name in self.projections}

    def get_input_embeddings(self):
        return self.encoders["text"].get_input_embeddings() if "text" in self.encoders else None

    def set_input_embeddings(self, value):
        self.encoders["text"].set_input_embeddings(value)

    def encode(self, streams: dict[str, Stream], **kwargs) -> tuple[dict[str, FusedTokens], dict[str, EncoderOutput]]:
        """The tokens of each stream, of the fusion's width, and what its encoder gave.

        Raises:
            ValueError: for nothing at all, and a modality that has no encoder here.
        """
        if not streams:
            raise ValueError(f"Give an input of the model: {' or '.join(self.encoders)}.")
        tokens, outputs = {}, {}
        for name, stream in streams.items():
            if name not in self.encoders:
                raise ValueError(f"{name} was given, but the model reads {' and '.join(self.encoders)}.")
            outputs[name] = encode_stream(self.encoders[name], name, stream, **kwargs)
            states, mask = outputs[name].last_hidden_state, outputs[name].attention_mask
            tokens[name] = FusedTokens(self.projections[name](states), None if mask is None else mask.bool())
        return tokens, outputs

    def fuse(self, tokens: dict[str, FusedTokens]) -> FusedTokens:
        """Both streams as one; of one alone, its tokens as they are."""
        first, *others = tokens.values()
        if not others:
            return first
        (second,) = others
        if first.tokens.shape[0] != second.tokens.shape[0]:
            sizes = {name: stream.tokens.shape[0] for name, stream in tokens.items()}
            raise ValueError(f"Row i of every modality is sample i, but the batch sizes are {sizes}.")
        return self.fusion(first.tokens, first.attention_mask, second.tokens, second.attention_mask)

    @can_return_tuple
    @reads_streams
    def forward(self, streams: dict[str, Stream], **kwargs) -> MultiModalOutput:
        """
        Returns:
            The fused tokens and one vector of them.
        """
        tokens, outputs = self.encode(streams, **kwargs)
        fused = self.fuse(tokens)
        return MultiModalOutput(
            last_hidden_state=fused.tokens,
            pooler_output=None if self.pooling is None else self.pooling(fused.tokens, fused.attention_mask),
            attention_mask=as_numbers(fused.attention_mask),
            **{f"{name}_model_output": output for name, output in outputs.items()},
        )


__all__ = ["MultiModalPreTrainedModel", "MultiModalTransformer"]
