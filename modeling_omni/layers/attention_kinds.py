"""Attention made from a config, and the mask that its kernel takes."""

import torch
from transformers import PreTrainedConfig

from ...configuration.configuration_attention import AttentionConfig
from . import linear_attention, sparse_attention  # noqa: F401, they register their kernels
from .attention import Attention
from .feature_maps import FEATURE_MAPS, RandomFeatures
from .kernels import get_mask_builder
from .masks import causal, everywhere


def make_attention(
    config: AttentionConfig,
    hidden_size: int,
    *,
    context_size: int | None = None,
    is_causal: bool = False,
    layer_idx: int | None = None,
    kernel: str | PreTrainedConfig = "sdpa",
) -> Attention:
    """The attention that a config describes.

    Args:
        hidden_size: width of the queries' input and of the output.
        context_size: width of the context, where it differs.
        is_causal: a token sees those up to its own place.
        layer_idx: this layer's slot in the cache.
        kernel: for `"multi_head"` the kernel, or a config whose `_attn_implementation` names it; other kinds are
            kernels of their own.

    Raises:
        ValueError: when heads do not divide.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent import AttentionConfig
    >>> from omnilatent.modeling_omni.layers import make_attention, make_attention_mask

    >>> config = AttentionConfig(kind="linear", num_attention_heads=4)
    >>> attention = make_attention(config, hidden_size=64)
    >>> x, padding = torch.randn(2, 5, 64), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    >>> mask = make_attention_mask(attention, x, padding)
    >>> attention(x, attention_mask=mask)[0].shape
    torch.Size([2, 5, 64])
    ```
    """
    options, feature_map = {}, None
    if config.kind == "sparse":
        options = {"window_size": config.window_size, "num_global_tokens": config.num_global_tokens}
    elif config.kind == "linear":
        feature_map = FEATURE_MAPS[config.feature_map]()
    elif config.kind == "performer":
        feature_map = RandomFeatures(
            config.head_dim or hidden_size // config.num_attention_heads, config.num_random_features
        )
    return Attention(
        hidden_size,
        config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        context_size=context_size,
        bias=config.bias,
        qk_norm=config.qk_norm,
        dropout=config.dropout,
        kernel=kernel if config.kind == "multi_head" else config.kind,
        is_causal=is_causal,
        layer_idx=layer_idx,
        kernel_options=options,
        feature_map=feature_map,
    )


def make_attention_mask(
    attention: Attention,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    context: torch.Tensor | None = None,
    past_length: int = 0,
    key_length: int | None = None,
) -> torch.Tensor | None:
    """The mask in the form that an attention's kernel takes, built by the builder registered beside the kernel.

    Layers of one kind share it.

    Args:
        hidden_states: (B, Q, D), the queries.
        attention_mask: (B, K), 1 where a key is there and 0 at padding.
        context: (B, K, D), where keys come from. `None`: the queries.
        past_length: keys in a cache before the queries' own.
        key_length: of a cache that is longer than what it holds. `None`: what there is.
    """
    length = hidden_states.shape[1]
    keys = (length + past_length if context is None else context.shape[1]) if key_length is None else key_length
    is_causal = attention.is_causal and context is None
    if attention_mask is None and not is_causal and past_length == 0 and key_length is None:
        return None
    return get_mask_builder(attention.kernel_name)(
        batch_size=hidden_states.shape[0],
        q_length=length,
        kv_length=keys,
        q_offset=past_length,
        mask_function=causal if is_causal else everywhere,
        attention_mask=None if attention_mask is None else attention_mask.bool(),
        allow_is_causal_skip=False,
        dtype=hidden_states.dtype,
        device=hidden_states.device,
        config=attention.kernel if isinstance(attention.kernel, PreTrainedConfig) else None,
    )


__all__ = ["make_attention", "make_attention_mask"]
