"""Attention to a window and to a few global tokens, which skips the rest.

Registered with transformers as `attn_implementation="sparse"`. Longformer's pattern (Beltagy et al. 2020, section 3.1):
a token sees those at most `window_size` away on each side; the first `num_global_tokens` see all and are seen by all.
Causal attention is the same without the future.

Shapes: B batch, H heads, G key and value heads, N tokens, d head width, g global tokens.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface

from .gathered_blocks import gathered_attention
from .kernels import expand_groups
from .key_masks import check_key_mask, key_mask
from .relative_bias import LOOKUP_KERNELS, RelativeBias
from .symbolic_lengths import is_symbolic

NAME = "sparse"


def sparse_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    window_size: int,
    num_global_tokens: int,
    keys_there: torch.Tensor | None = None,
    is_causal: bool = False,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_bias: RelativeBias | None = None,
    training: bool = False,
) -> torch.Tensor:
    """Softmax attention in Longformer's pattern.

    On a GPU flex attention does it; dropout, a bias and what is exported take blocks with gathered keys, as a CPU does.
    A program that is exported for any length masks all scores.

    Args:
        query: (B, H, N, d); key, value: (B, G, N, d).
        keys_there: bool (B, N), False for keys that nobody sees.
        position_bias: on one axis of N tokens.
        training: which of its compiled forms flex attention takes.

    Returns:
        (B, H, N, d), 0 for a query that sees no key.
    """
    if is_symbolic(query.shape[2]):
        pattern = (window_size, num_global_tokens, keys_there, is_causal)
        return _masked_attention(query, key, value, *pattern, scaling, position_bias)
    num_global_tokens = min(num_global_tokens, query.shape[2])
    pattern = (window_size, num_global_tokens, keys_there, is_causal, scaling)
    if dropout == 0.0 and position_bias is None and _has_flex(query):
        from .flex_blocks import flex_attention  # loads the compiler

        output = flex_attention(query, key, value, *pattern, training=training)
    else:
        output = gathered_attention(query, key, value, *pattern, dropout, position_bias)
    if is_causal or num_global_tokens == 0:  # a causal global token sees no more than others do: global tokens
        return output
    mask = None if keys_there is None else keys_there[:, None, None]
    if position_bias is not None:
        bias = _bias_of_first(position_bias, num_global_tokens).to(query.dtype)
        mask = bias if mask is None else torch.where(mask, bias, float("-inf"))
    of_global = F.scaled_dot_product_attention(
        query[:, :, :num_global_tokens],
        key,
        value,
        mask,
        dropout_p=dropout,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return torch.cat([of_global, output[:, :, num_global_tokens:]], dim=2)


def _has_flex(query: torch.Tensor) -> bool:
    """Whether flex attention takes these queries, here and now."""
    return (
        query.is_cuda
        and query.dtype != torch.float64
        and query.shape[-1] >= 16  # the smallest side of a tensor core's product
        and not torch.compiler.is_exporting()
    )


def _masked_attention(
    query, key, value, window_size, num_global_tokens, keys_there, is_causal, scaling, position_bias
) -> torch.Tensor:
    """The same with all N² scores."""
    place = torch.arange(query.shape[2], device=query.device)
    query_place, key_place = place[:, None], place[None, :]
    mask = ((query_place - key_place).abs() <= window_size) | (key_place < num_global_tokens)
    mask = (mask & (key_place <= query_place)) if is_causal else (mask | (query_place < num_global_tokens))
    mask = mask[None, None] if keys_there is None else mask[None, None] & keys_there[:, None, None]
    if position_bias is not None:
        mask = torch.where(mask, position_bias.dense().to(query.dtype), float("-inf"))
    key, value = expand_groups(query, key, value)
    return F.scaled_dot_product_attention(query, key, value, mask, scale=scaling)


def _bias_of_first(bias: RelativeBias, count: int) -> torch.Tensor:
    """The bias of the first queries, (1, H, count, N)."""
    length = bias.key_size[0]
    return RelativeBias(bias.table[: length - 1 + count], (count,), (length,)).dense()


def sparse_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    position_bias: RelativeBias | None = None,
    window_size: int = 128,
    num_global_tokens: int = 1,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """The kernel in transformers' form.

    Args:
        query: (B, H, N, d); key, value: (B, G, N, d).
        attention_mask: (B, N), True where a key is seen.
        position_bias: on one axis, such as `RelativeOffsets` makes; a bias that is written out has N² numbers.

    Raises:
        ValueError: for a context of another length, a KV cache, a bias of another form and a mask of another shape.
    """
    length = query.shape[2]
    if length != key.shape[2]:
        raise ValueError(
            "The attention kernel 'sparse' has windows around a token's own place, so it needs as many keys as "
            f"queries, got {key.shape[2]} and {length}; for a context of another length and for a KV cache choose "
            "'multi_head'."
        )
    if position_bias is not None:
        _check_bias(position_bias, length)
    is_causal = getattr(module, "is_causal", False) if is_causal is None else is_causal
    attention_mask = check_key_mask(NAME, attention_mask, key)
    pattern = (window_size, num_global_tokens, attention_mask, is_causal, scaling)
    output = sparse_attention(query, key, value, *pattern, dropout, position_bias, module.training)
    return output.transpose(1, 2), None


def _check_bias(bias: RelativeBias | torch.Tensor, length: int):
    if not isinstance(bias, RelativeBias) or bias.table.ndim != 2 or bias.class_token:
        what = f"a table of shape {tuple(bias.table.shape)}" if isinstance(bias, RelativeBias) else type(bias).__name__
        raise ValueError(
            "The attention kernel 'sparse' looks its bias up by offset: expected a `RelativeBias` with one table for "
            f"all samples and no class token, such as `RelativeOffsets` makes, got {what}."
        )
    if bias.query_size != (length,) or bias.key_size != (length,):
        raise ValueError(
            f"The attention kernel 'sparse' needs a bias on one axis of {length} tokens, got grids "
            f"{bias.query_size} and {bias.key_size}."
        )


AttentionInterface.register(NAME, sparse_attention_forward)
AttentionMaskInterface.register(NAME, key_mask)
LOOKUP_KERNELS.add(NAME)

__all__ = ["sparse_attention"]
