"""Sparse attention by blocks of queries, each with a copy of the keys that it may see.

Shapes: B batch, H heads, G key and value heads, R query heads of each, N tokens, C blocks of c tokens, S keys that a
block meets, d head width, g global tokens.
"""

import torch
from torch.nn import functional as F

from .relative_bias import RelativeBias

# tokens of a block: a multiple of the smallest, near the window, so that little is computed for nothing
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
    position_bias: RelativeBias | None = None,
) -> torch.Tensor:
    """Attention to a window and to the first g tokens, by torch's attention over blocks.

    Args:
        query: (B, H, N, d); key, value: (B, G, N, d).
        keys_there: bool (B, N), False for keys that nobody sees.
        position_bias: on one axis of N tokens.

    Returns:
        (B, H, N, d), 0 for a query that sees no key.
    """
    batch, heads, length, _ = query.shape
    groups = heads // key.shape[1]
    block = min(-(-window_size // SMALLEST_BLOCK) * SMALLEST_BLOCK, LARGEST_BLOCK)
    reach = -(-window_size // block)
    sides = (reach, 0 if is_causal else reach)  # blocks before and after
    queries = _blocks(query, block).unflatten(1, (-1, groups))  # (B, G, R, C, c, d)
    queries = queries.permute(0, 3, 1, 2, 4, 5).flatten(3, 4).flatten(0, 1)  # (B * C, G, R * c, d)
    keys, values = (_around(states, block, sides, num_global_tokens) for states in (key, value))  # (B * C, G, S, d)
    mask = _mask_of_blocks(length, block, sides, window_size, num_global_tokens, is_causal, keys_there, query.device)
    mask = mask.repeat(1, 1, groups, 1)  # (B or 1, C, R * c, S): groups of heads are further queries
    if position_bias is None:
        mask = mask.unsqueeze(2)
    else:
        bias = _bias_of_blocks(position_bias, length, block, sides, num_global_tokens)  # (C, H, c, S)
        bias = bias.unflatten(1, (-1, groups)).flatten(2, 3).to(query.dtype)  # (C, G, R * c, S)
        mask = torch.where(mask.unsqueeze(2), bias, float("-inf"))
    mask = mask.expand(batch, -1, -1, -1, -1).flatten(0, 1)  # (B * C, G or 1, R * c, S)
    output = F.scaled_dot_product_attention(queries, keys, values, mask, dropout_p=dropout, scale=scaling)
    output = output.unflatten(2, (groups, block)).unflatten(0, (batch, -1))  # (B, C, G, R, c, d)
    return output.permute(0, 2, 3, 1, 4, 5).flatten(3, 4).flatten(1, 2)[:, :, :length]


def _blocks(states: torch.Tensor, block: int, before: int = 0, after: int = 0) -> torch.Tensor:
    """(..., N, d) -> (..., before + C + after, c, d), padded with 0."""
    states = F.pad(states, (0, 0, before * block, after * block + -states.shape[-2] % block))
    return states.unflatten(-2, (-1, block))


def _around(states: torch.Tensor, block: int, sides: tuple[int, int], num_global_tokens: int) -> torch.Tensor:
    """What each block meets of states (B, G, N, d): the global tokens and those around, (B * C, G, S, d)."""
    blocks = _blocks(states, block, *sides).transpose(1, 2)
    count = blocks.shape[1] - sum(sides)
    met = [blocks[:, shift : shift + count] for shift in range(sum(sides) + 1)]
    if num_global_tokens > 0:
        of_global = states[:, None, :, :num_global_tokens]
        met = [of_global.expand(-1, count, -1, -1, -1), *met]
    return torch.cat(met, dim=3).flatten(0, 1)


def _mask_of_blocks(length, block, sides, window_size, num_global_tokens, is_causal, keys_there, device):
    """Who sees whom within blocks, bool (B or 1, C, c, S)."""
    count = -(-length // block)
    start = torch.arange(count, device=device)[:, None, None] * block  # (C, 1, 1)
    query = start + torch.arange(block, device=device)[:, None]
    near = start + torch.arange(-sides[0] * block, (sides[1] + 1) * block, device=device)
    of_global = torch.arange(num_global_tokens, device=device).expand(count, 1, -1)
    key = torch.cat([of_global, near], dim=-1)  # (C, 1, S)
    # a global token is seen in its own column, not once more in the window
    in_window = ((query - key).abs() <= window_size) & (key >= num_global_tokens) & (key < length)
    mask = in_window | (torch.arange(key.shape[-1], device=device) < num_global_tokens)
    if is_causal:
        mask = mask & (key <= query)
    if keys_there is None:
        return mask.unsqueeze(0)
    there = _around(keys_there[:, None, :, None], block, sides, num_global_tokens)  # (B * C, 1, S, 1)
    return mask & there.transpose(2, 3).squeeze(1).unflatten(0, (-1, count))


def _bias_of_blocks(bias: RelativeBias, length, block, sides, num_global_tokens) -> torch.Tensor:
    """The bias within blocks, (C, H, c, S). All blocks share what is for the window."""
    count = -(-length // block)
    place = torch.arange(block, device=bias.table.device)[:, None]
    near = torch.arange(-sides[0] * block, (sides[1] + 1) * block, device=bias.table.device)
    entry = (place - near + length - 1).clamp(0, len(bias.table) - 1)  # beyond the sequence anything: nobody looks
    of_window = bias.table[entry].permute(2, 0, 1).expand(count, -1, -1, -1)
    if num_global_tokens == 0:
        return of_window
    table = bias.table[length - num_global_tokens :]
    of_global = RelativeBias(table, (length,), (num_global_tokens,)).dense().squeeze(0)  # (H, N, g)
    return torch.cat([_blocks(of_global, block).transpose(0, 1), of_window], dim=-1)


__all__ = ["gathered_attention"]
