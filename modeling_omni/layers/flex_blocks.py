"""Sparse attention by torch's flex attention, which visits only those blocks of scores that hold something.

Shapes: B batch, H heads, G key and value heads, N tokens, d head width, g global tokens.
"""

import functools

import torch
from torch.nn.attention.flex_attention import BlockMask
from transformers.integrations.flex_attention import compile_friendly_flex_attention

from .kernels import expand_groups

BLOCK = 128  # tokens of a block on either side, flex attention's default


def flex_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    window_size: int,
    num_global_tokens: int,
    keys_there: torch.Tensor | None = None,
    is_causal: bool = False,
    scaling: float | None = None,
    training: bool = False,
) -> torch.Tensor:
    """Attention to a window and to the first g tokens, compiled.

    Args:
        query: (B, H, N, d); key, value: (B, G, N, d).
        keys_there: bool (B, N), False for keys that nobody sees.

    Returns:
        (B, H, N, d), 0 for a query that sees no key.
    """
    if query.shape[1] & (query.shape[1] - 1) != 0:  # groups of other numbers of heads than powers of 2 are not taken
        key, value = expand_groups(query, key, value)
    pattern = (query.shape[2], window_size, num_global_tokens, is_causal, query.device)
    mask = _make_kept_block_mask(*pattern) if keys_there is None else make_block_mask(*pattern, keys_there)
    query, key = query.to(value.dtype), key.to(value.dtype)  # what autocast does in sdpa
    return compile_friendly_flex_attention(
        query, key, value, training=training, block_mask=mask, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
    )


def make_block_mask(
    length: int,
    window_size: int,
    num_global_tokens: int,
    is_causal: bool,
    device: torch.device,
    keys_there: torch.Tensor | None = None,
) -> BlockMask:
    """The pattern as flex attention reads it.

    `create_block_mask` would look at each of the N² pairs; which blocks hold something is known from their ends.
    """

    def sees(batch, head, query, key):
        seen = ((query - key).abs() <= window_size) | (key < num_global_tokens)
        if is_causal:
            seen = seen & (key <= query)
        return seen if keys_there is None else seen & keys_there[batch, key]

    first = torch.arange(0, length, BLOCK, device=device)
    last = first + BLOCK - 1
    query_first, query_last = first[:, None], last[:, None]
    some = (first - query_last <= window_size) & (query_first - last <= window_size) | (first < num_global_tokens)
    whole = (last - query_first <= window_size) & (query_last - first <= window_size) | (last < num_global_tokens)
    whole = whole & (last < length)
    if is_causal:
        some, whole = some & (first <= query_last), whole & (last <= query_first)
    some, whole = some[None, None], whole[None, None]
    if keys_there is not None:
        there = torch.nn.functional.pad(keys_there, (0, -length % BLOCK)).unflatten(1, (-1, BLOCK))
        some = some & there.any(dim=-1)[:, None, None]
        whole = whole & there.all(dim=-1)[:, None, None]
    return BlockMask.from_kv_blocks(
        *_list_blocks(some & ~whole),
        *_list_blocks(whole),
        BLOCK_SIZE=BLOCK,
        mask_mod=sees,
        seq_lengths=(length, length),
    )


@functools.lru_cache(maxsize=16)
def _make_kept_block_mask(*pattern) -> BlockMask:
    with torch.inference_mode(False):  # a tensor of inference mode, once kept, could never be trained with
        return make_block_mask(*pattern)


def _list_blocks(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each row of bool (B, 1, rows, columns) the number of True, and their columns, first."""
    columns = torch.argsort(blocks.to(torch.uint8), dim=-1, descending=True, stable=True)
    return blocks.sum(dim=-1, dtype=torch.int32), columns.to(torch.int32)


__all__ = ["flex_attention", "make_block_mask"]
