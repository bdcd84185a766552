"""The library's own causal decoder of text, which attends to encoded tokens.

Shapes: B batch, T tokens of text, K encoded tokens, D hidden size, V vocabulary.
"""

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from ...configuration.configuration_multimodal import DecoderConfig
from ..layers import (
    Attention,
    LearnedPositions,
    MultiAxisRotary,
    SinusoidalPositions,
    make_attention,
    make_feed_forward,
    make_norm,
)
from ..layers.masks import padding_mask
from .kernel_setting import SetsKernelsOfParts
from .starting_weights import start_layer


class DecoderBlock(GradientCheckpointingLayer):
    """Self-attention, attention to the encoded tokens and a feed-forward, each behind a norm (Vaswani et al. 2017,
    section 3.1, with the norm before).

    Args:
        layer_idx: its place in the cache.
        is_causal: whether tokens see only those before them.
        context_size: width of the encoded tokens.
        kernel: config whose `_attn_implementation` names the kernel. `None`: `config`.
    """

    def __init__(
        self,
        config: DecoderConfig,
        layer_idx: int,
        context_size: int,
        is_causal: bool = True,
        kernel: PreTrainedConfig | None = None,
    ):
        super().__init__()
        self.layer_idx = layer_idx
        words = {"layer_idx": layer_idx, "kernel": kernel or config}
        self.attention_norm = make_norm(config.norm, config.hidden_size, config.norm_eps)
        self.attention = make_attention(config.attention, config.hidden_size, is_causal=is_causal, **words)
        self.cross_attention_norm = make_norm(config.norm, config.hidden_size, config.norm_eps)
        self.cross_attention = make_attention(config.attention, config.hidden_size, context_size=context_size, **words)
        self.feed_forward_norm = make_norm(config.norm, config.hidden_size, config.norm_eps)
        self.feed_forward = make_feed_forward(
            config.feed_forward, config.hidden_size, config.intermediate_size, config.hidden_act, config.dropout
        )

    def forward(
        self,
        hidden_states: torch.Tensor,
        context: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        rotary: tuple[torch.Tensor, torch.Tensor] | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """
        Args:
            hidden_states: (B, T, D).
            context: (B, K, context_size), the encoded tokens.
            attention_mask, encoder_attention_mask: as the kernel takes them.
        """
        attended, _ = self.attention(
            self.attention_norm(hidden_states),
            attention_mask=attention_mask,
            rotary=rotary,
            past_key_values=None if past_key_values is None else past_key_values.self_attention_cache,
            **kwargs,
        )
        hidden_states = hidden_states + attended
        read, _ = self.cross_attention(
            self.cross_attention_norm(hidden_states),
            key_value=self._project_context(context, past_key_values),
            attention_mask=encoder_attention_mask,
            **kwargs,
        )
        hidden_states = hidden_states + read
        return hidden_states + self.feed_forward(self.feed_forward_norm(hidden_states))

    def _project_context(self, context, cache):
        """Keys and values of the context, which are the same at every step: made once, then kept."""
        if cache is None:
            return self.cross_attention.project_context(context)
        kept = cache.cross_attention_cache
        if cache.is_updated.get(self.layer_idx):
            return kept.layers[self.layer_idx].keys, kept.layers[self.layer_idx].values
        cache.is_updated[self.layer_idx] = True
        return kept.update(*self.cross_attention.project_context(context), self.layer_idx)


class TokenDecoder(SetsKernelsOfParts, PreTrainedModel):
    """
    Embeddings, positions and [`DecoderBlock`]s.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent import DecoderConfig
    >>> from omnilatent.modeling_omni.multimodal.token_decoder import TokenDecoder

    >>> decoder = TokenDecoder(DecoderConfig(hidden_size=48, num_hidden_layers=2), context_size=32)
    >>> decoder(torch.tensor([[1, 7, 9]]), encoder_hidden_states=torch.randn(1, 5, 32)).last_hidden_state.shape
    torch.Size([1, 3, 48])
    ```
    """

    config: DecoderConfig
    config_class = DecoderConfig
    base_model_prefix = "decoder"
    supports_gradient_checkpointing = True
    _no_split_modules = ["DecoderBlock"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "hidden_states": DecoderBlock,
        "attentions": OutputRecorder(Attention, index=1, layer_name=".attention"),
        "cross_attentions": OutputRecorder(Attention, index=1, layer_name=".cross_attention"),
    }

    def __init__(self, config: DecoderConfig, context_size: int | None = None):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.positions = None  # added to tokens
        if config.position == "learned":
            self.positions = LearnedPositions(config.max_position_embeddings, config.hidden_size)
        elif config.position == "sinusoidal":
            self.positions = SinusoidalPositions(config.hidden_size)
        self.rotary = MultiAxisRotary(config.head_dim) if config.position == "rotary" else None
        self.dropout = nn.Dropout(config.dropout)
        context_size = context_size or config.hidden_size
        self.layers = nn.ModuleList(
            DecoderBlock(config, index, context_size) for index in range(config.num_hidden_layers)
        )
        self.norm = make_norm(config.norm, config.hidden_size, config.norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self):
        return self.embed_tokens

    def set_input_embeddings(self, value):
        self.embed_tokens = value

    def _init_weights(self, module):
        super()._init_weights(module)
        start_layer(module)

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        encoder_hidden_states: torch.FloatTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """
        Args:
            input_ids: (B, T).
            encoder_hidden_states: (B, K, context_size).
            attention_mask: (B, T), 1 where a token is real; with a cache it covers the cached ones as well.
            encoder_attention_mask: (B, K), 1 where an encoded token is real.
            position_ids: (B, T); by default real tokens are counted from 0.
            inputs_embeds: (B, T, D) in place of `input_ids`.
            past_key_values: `EncoderDecoderCache` of the tokens before.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give one of the decoder's `input_ids` and `inputs_embeds`.")
        hidden_states = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and past_key_values is None:
            past_key_values = EncoderDecoderCache(DynamicCache(config=self.config), DynamicCache(config=self.config))
        if isinstance(self.positions, LearnedPositions):
            self._check_length(hidden_states, attention_mask, past_key_values)
        if position_ids is None:
            position_ids = self._count(hidden_states, attention_mask, past_key_values)
        own_cache = None if past_key_values is None else past_key_values.self_attention_cache
        mask = create_causal_mask(self.config, hidden_states, attention_mask, past_key_values=own_cache)
        encoder_attention_mask = padding_mask(
            self.config, hidden_states, encoder_attention_mask, encoder_hidden_states
        )
        if self.positions is not None:
            hidden_states = self.positions(hidden_states, position_ids)
        hidden_states = self.dropout(hidden_states)
        rotary = None if self.rotary is None else self.rotary(position_ids.unsqueeze(0), hidden_states.dtype)
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                encoder_hidden_states,
                attention_mask=mask,
                encoder_attention_mask=encoder_attention_mask,
                rotary=rotary,
                past_key_values=past_key_values,
                **kwargs,
            )
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values if use_cache else None
        )

    def _check_length(self, hidden_states, attention_mask, cache):
        """By lengths that Python knows: to look at positions would wait for the GPU, where a lookup behind the table's
        end kills the process."""
        before = 0 if cache is None else cache.get_seq_length()
        if attention_mask is not None and attention_mask.ndim == 2:
            self.positions.check_length(attention_mask.shape[1])
        elif isinstance(before, int):  # a static cache counts on the device
            self.positions.check_length(before + hidden_states.shape[1])

    def _count(self, hidden_states, attention_mask, cache):
        """How many real tokens precede each, so that padding before a prompt changes nothing."""
        length = hidden_states.shape[1]
        if attention_mask is not None and attention_mask.ndim == 2:
            return count_real(attention_mask)[:, -length:]
        before = 0 if cache is None else cache.get_seq_length()
        return (torch.arange(length, device=hidden_states.device) + before).unsqueeze(0)


def count_real(attention_mask: torch.Tensor) -> torch.Tensor:
    """(B, T) positions of tokens, from a mask that is 1 where they are real."""
    return (attention_mask.long().cumsum(dim=-1) - 1).clamp(min=0)
