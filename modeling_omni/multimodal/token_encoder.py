"""The library's own encoder of text, features, pictures, videos and sound.

Shapes: B batch, N tokens, D hidden size.
"""

import functools
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from ...configuration.configuration_multimodal import EncoderConfig
from ..known_keywords import knows_its_keywords
from ..layers import (
    Attention,
    TransformerBlock,
    make_attention,
    make_attention_mask,
    make_feed_forward,
    make_norm,
)
from .kernel_setting import SetsKernelsOfParts
from .starting_weights import start_layer
from .token_embeddings import TokenEmbeddings
from .token_positions import TokenPositions


@dataclass
class EncoderOutput(ModelOutput):
    """
    Args:
        last_hidden_state (`torch.Tensor` (B, N, D)): Tokens.
        attention_mask (`torch.Tensor` (B, N), *optional*): 1 where they are real; `None`: all are.
        hidden_states, attentions (`tuple[torch.Tensor]`, *optional*): Per layer, as in every transformers model.
    """

    last_hidden_state: torch.Tensor | None = None
    attention_mask: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class TokenEncoder(SetsKernelsOfParts, PreTrainedModel):
    """
    Embeddings, positions and transformer layers with the norm before each branch.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent import EncoderConfig
    >>> from omnilatent.modeling_omni.multimodal.token_encoder import TokenEncoder

    >>> config = EncoderConfig(image_size=32, patch_size=8, hidden_size=48, num_hidden_layers=2)
    >>> TokenEncoder(config)(pixel_values=torch.randn(2, 3, 32, 32)).last_hidden_state.shape
    torch.Size([2, 16, 48])
    ```
    """

    config: EncoderConfig
    config_class = EncoderConfig
    base_model_prefix = "encoder"
    supports_gradient_checkpointing = True
    _no_split_modules = ["TransformerBlock"]
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_relative_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": TransformerBlock, "attentions": Attention}

    def __init__(self, config: EncoderConfig):
        super().__init__(config)
        norm = functools.partial(make_norm, config.norm, eps=config.norm_eps)
        self.embeddings = TokenEmbeddings(config)
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size)) if config.use_class_token else None
        self.positions = TokenPositions(config)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            TransformerBlock(
                config.hidden_size,
                attention=make_attention(config.attention, config.hidden_size, kernel=config),
                feed_forward=make_feed_forward(
                    config.feed_forward,
                    config.hidden_size,
                    config.intermediate_size,
                    config.hidden_act,
                    config.dropout,
                ),
                norm=norm,
            )
            for _ in range(config.num_hidden_layers)
        )
        self.norm = norm(config.hidden_size)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self):
        return getattr(self.embeddings, "words", None)

    def set_input_embeddings(self, value):
        self.embeddings.words = value

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        start_layer(module)
        if isinstance(module, TokenEncoder) and module.class_token is not None:
            init.normal_(module.class_token, std=self.config.initializer_range)

    @knows_its_keywords
    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        pixel_values_videos: torch.FloatTensor | None = None,
        input_features: torch.FloatTensor | None = None,
        features: torch.FloatTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> EncoderOutput:
        """
        Args:
            input_ids, pixel_values, pixel_values_videos, input_features, features: one of them, as
                `MultiModalTransformer.forward` takes it.
            attention_mask: 1 where it is real.
        """
        given = {
            "input_ids": input_ids,
            "pixel_values": pixel_values,
            "pixel_values_videos": pixel_values_videos,
            "input_features": input_features,
            "features": features,
        }
        given = {name: values for name, values in given.items() if values is not None}
        if len(given) != 1:
            raise ValueError(f"Give one of the encoder's inputs, got {', '.join(given) or 'none'}.")
        ((name, values),) = given.items()
        mask = None if attention_mask is None else attention_mask.bool()
        hidden_states, mask, places = self.embeddings(name, values, mask)
        order = None
        if mask is not None and self.positions.counts_padding:
            order = torch.argsort((~mask).to(torch.uint8), dim=1, stable=True)
            hidden_states = _reorder(hidden_states, order)
            places = places.gather(2, order.expand(len(places), -1, -1))
            real, mask = mask, mask.gather(1, order)
        hidden_states = self.positions.add(hidden_states, places)
        if self.class_token is not None:
            hidden_states = torch.cat([self.class_token.expand(hidden_states.shape[0], -1, -1), hidden_states], dim=1)
            mask = None if mask is None else nn.functional.pad(mask, (1, 0), value=True)
        hidden_states = self.dropout(hidden_states)
        kwargs |= self.positions.for_attention(hidden_states, places)
        if len(self.layers) > 0:
            kwargs["attention_mask"] = make_attention_mask(self.layers[0].attention, hidden_states, mask)
        for layer in self.layers:
            hidden_states = layer(hidden_states, **kwargs)
        if order is not None:
            back, mask = order.argsort(dim=1), real
            if self.class_token is not None:
                back, mask = nn.functional.pad(back + 1, (1, 0)), nn.functional.pad(mask, (1, 0), value=True)
            hidden_states = _reorder(hidden_states, back)
        return EncoderOutput(last_hidden_state=self.norm(hidden_states), attention_mask=as_numbers(mask))


def _reorder(states: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Row `order[b, n]` of each sample of `states` (B, N, D) at place n."""
    return states.gather(1, order.unsqueeze(-1).expand(-1, -1, states.shape[-1]))


def as_numbers(mask: torch.Tensor | None) -> torch.Tensor | None:
    """A bool mask as transformers' outputs have it: 1 where real."""
    return None if mask is None else mask.long()
