"""Attention to a window and to a few global tokens, which skips the rest.

Registered with transformers as `attn_implementation="sparse"`. Longformer's pattern (Beltagy et al. 2020, section 3.1):
a token sees those at most `window_size` away on each side; the first `num_global_tokens` see all and are seen by all.
Causal attention is the same without the future.

Shapes: B batch, H heads, G key and value heads, R query heads of each, N tokens, C blocks of c tokens, S keys that a
block sees, d head width, g global tokens.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface

from .key_masks import check_key_mask, key_mask

# tokens of a block of queries: a multiple of the smallest, near the window, so that little is computed for nothing
SMALLEST_BLOCK, LARGEST_BLOCK = 16, 128


def gathered_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    window_size: int,
    num_global_tokens: int,
    keys_there: torch.Tensor | None = None,
    is_causal: bool = False,
    scaling: float | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Sparse attention by blocks: each block of queries meets a copy of the keys around it and of the global ones.

    Args:
        query: (B, H, N, d); key, value: (B, G, N, d).
        keys_there: bool (B, N), False for keys that nobody sees.

    Returns:
        (B, H, N, d), 0 for a query that sees no key.
    """
    batch, heads, length, width = query.shape
    groups = heads // key.shape[1]
    num_global_tokens = min(num_global_tokens, length)
    block = min(-(-window_size // SMALLEST_BLOCK) * SMALLEST_BLOCK, LARGEST_BLOCK)
    reach = -(-window_size // block)  # blocks on each side
    sides = (reach, 0 if is_causal else reach)
    queries = _blocks(query, block).unflatten(1, (-1, groups))  # (B, G, R, C, c, d)
    queries = queries.permute(0, 3, 1, 2, 4, 5).flatten(3, 4).flatten(0, 1)  # (B * C, G, R * c, d)
    keys, values = (_around(states, block, sides, num_global_tokens) for states in (key, value))  # (B * C, G, S, d)
    mask = _mask_of_blocks(length, block, sides, window_size, num_global_tokens, is_causal, keys_there, query.device)
    mask = mask.repeat(1, groups, 1)  # (B or 1 times C, R * c, S)
    mask = mask.expand(batch, *mask.shape).flatten(0, 1) if keys_there is None else mask
    output = F.scaled_dot_product_attention(queries, keys, values, mask.unsqueeze(1), dropout_p=dropout, scale=scaling)
    output = output.unflatten(2, (groups, block)).unflatten(0, (batch, -1))  # (B, C, G, R, c, d)
    output = output.permute(0, 2, 3, 1, 4, 5).flatten(3, 4).flatten(1, 2)[:, :, :length]
    if is_causal or num_global_tokens == 0:  # a causal global token sees global tokens only, which are in each block
        return output
    seen = None if keys_there is None else keys_there[:, None, None]
    of_global = F.scaled_dot_product_attention(
        query[:, :, :num_global_tokens], key, value, seen, dropout_p=dropout, scale=scaling, enable_gqa=groups > 1
    )
    return torch.cat([of_global, output[:, :, num_global_tokens:]], dim=2)


def _blocks(states: torch.Tensor, block: int, before: int = 0, after: int = 0) -> torch.Tensor:
    """(..., N, d) -> (..., before + C + after, c, d), padded with 0."""
    length = states.shape[-2]
    states = F.pad(states, (0, 0, before * block, after * block + -length % block))
    return states.unflatten(-2, (-1, block))


def _around(states: torch.Tensor, block: int, sides: tuple[int, int], num_global_tokens: int) -> torch.Tensor:
    """What each block sees of states (B, G, N, d): the global tokens and those around, (B * C, G, S, d)."""
    blocks = _blocks(states, block, *sides).transpose(1, 2)
    count = blocks.shape[1] - sum(sides)
    near = [blocks[:, shift : shift + count] for shift in range(sum(sides) + 1)]
    if num_global_tokens > 0:
        of_global = states[:, None, :, :num_global_tokens]
        near = [of_global.expand(-1, count, -1, -1, -1), *near]
    return torch.cat(near, dim=3).flatten(0, 1)


def _mask_of_blocks(length, block, sides, window_size, num_global_tokens, is_causal, keys_there, device):
    """Who sees whom within blocks: bool (C, c, S), or (B * C, c, S) where samples differ."""
    count = -(-length // block)
    start = torch.arange(count, device=device)[:, None, None] * block  # (C, 1, 1)
    query = start + torch.arange(block, device=device)[:, None]
    near = start + torch.arange(-sides[0] * block, (sides[1] + 1) * block, device=device)
    of_global = torch.arange(num_global_tokens, device=device).expand(count, 1, -1)
    key = torch.cat([of_global, near], dim=-1)  # (C, 1, S)
    in_window = ((query - key).abs() <= window_size) & (key >= num_global_tokens) & (key < length)
    column = torch.arange(key.shape[-1], device=device)
    mask = torch.where(column < num_global_tokens, True, in_window)  # a global token is seen in its own column only
    if is_causal:
        mask = mask & (key <= query)
    if keys_there is None:
        return mask
    there = _around(keys_there[:, None, :, None], block, sides, num_global_tokens)  # (B * C, 1, S, 1)
    return (mask & there.squeeze(-1).unflatten(0, (-1, count))).flatten(0, 1)


def sparse_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    position_bias: torch.Tensor | None = None,
    window_size: int = 128,
    num_global_tokens: int = 1,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """The kernel in transformers' form.

    Args:
        query: (B, H, N, d); key, value: (B, G, N, d).
        attention_mask: (B, N), True where a key is seen.

    Raises:
        ValueError: for a context of another length, a KV cache, a position bias and a mask of another shape.
    """
    if query.shape[2] != key.shape[2]:
        raise ValueError(
            "The attention kernel 'sparse' has windows around a token's own place, so it needs as many keys as "
            f"queries, got {key.shape[2]} and {query.shape[2]}; for a context of another length and for a KV cache "
            "choose 'multi_head'."
        )
    if position_bias is not None:
        raise ValueError("The attention kernel 'sparse' takes no `position_bias`.")
    is_causal = getattr(module, "is_causal", False) if is_causal is None else is_causal
    attention_mask = check_key_mask("sparse", attention_mask, key)
    output = gathered_attention(
        query, key, value, window_size, num_global_tokens, attention_mask, is_causal, scaling, dropout
    )
    return output.transpose(1, 2), None


AttentionInterface.register("sparse", sparse_attention_forward)
AttentionMaskInterface.register("sparse", key_mask)

__all__ = ["gathered_attention"]
