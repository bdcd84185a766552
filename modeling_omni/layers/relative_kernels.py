"""Triton kernels of attention with a relative position bias that is looked up and never written out.

Which entry a query and a key read is the difference of two numbers, the query's code and the key's, whatever the grid:
no index and no bias of Q x K is ever in memory. All sums have one order, so that each run gives the same bits.

Shapes: B batch, H heads, Q queries, K keys, d head width, E entries of a table by code.
"""

import functools

import torch
import triton

from .heads import like_rows
from .relative_programs import (
    FEW,
    LOG2_E,
    backward_key_value,
    backward_query,
    forward,
    gather_from_scores,
    sum_score_gradients,
)

# queries, keys, warps and stages of a tile, for 16-bit numbers and heads of up to 64, and for all others
TILES = {
    "forward": (64, 32, 4, 3),
    "query": (64, 32, 4, 3),
    "key_value": (32, 64, 4, 3),
    "table": (64, 64, 4, 3),
}
WIDE_TILE = (64, 32, 8, 2)
WORKSPACE = 2**26  # bytes in which gradients of scores are collected before they are summed into the table's
PROGRAMS = 768  # that sum scores' gradients, at the least: some for each of a large device's multiprocessors
GATHERERS = 16  # programs that share the queries of a chunk when entries gather their gradients


def attend(query, key, value, table, query_codes, key_codes, key_mask, scaling):
    """Attention in which query i and key j have the score q · k scaling + table[query_codes[i] - key_codes[j]].

    Args:
        query: (B, H, Q, d); key, value: (B, H, K, d), in any layout with d contiguous.
        table: (B or 1, H, E) float32, contiguous, times log2 e, as exponentials are powers of 2.
        query_codes, key_codes: int32, (Q,) and (K,) padded by the last code to whole tiles, as `make_codes` does.
        key_mask: (B, K) bool, False for keys that nobody sees; `None`: all are seen.

    Returns:
        The output (B, H, Q, d), laid out as (B, Q, H, d), 0 for a query that sees nothing, and the base-2 logarithm of
        each query's sum of exponentiated scores, (B, H, Q).
    """
    batch, heads, queries, width = query.shape
    output = like_rows(query)
    log_sum = query.new_empty(batch, heads, queries, dtype=torch.float32)
    block_q, _, constants = _tile("forward", query, key, key_mask)
    forward[(_parts(queries, block_q), batch * heads)](
        query, key, value, table, query_codes, key_codes, key_mask, output, log_sum,
        *query.stride()[:3], *key.stride()[:3], *value.stride()[:3], *output.stride()[:3],
        *_table_strides(table), heads, queries, key.shape[2], width, scaling * LOG2_E.value, **constants,
    )  # fmt: skip
    return output, log_sum


def attend_backward(grad_output, query, key, value, table, query_codes, key_codes, key_mask, output, log_sum, scaling):
    """Gradients of query, key and value, and delta (B, H, Q), the product of each output with its gradient."""
    batch, heads, queries, width = query.shape
    keys = key.shape[2]
    d_query, d_key, d_value = (like_rows(states) for states in (query, key, value))
    delta = torch.empty_like(log_sum)
    given = (query, key, value, table, query_codes, key_codes, key_mask, grad_output, log_sum, delta)
    strides = (*query.stride()[:3], *key.stride()[:3], *value.stride()[:3], *grad_output.stride()[:3])
    numbers = (*_table_strides(table), heads, queries, keys, width, scaling)
    block_q, _, constants = _tile("query", query, key, key_mask)
    backward_query[(_parts(queries, block_q), batch * heads)](
        *given, output, d_query, *strides, *output.stride()[:3], *d_query.stride()[:3], *numbers, **constants,
    )  # fmt: skip
    _, block_k, constants = _tile("key_value", query, key, key_mask)
    backward_key_value[(_parts(keys, block_k), batch * heads)](
        *given, d_key, d_value, *strides, *d_key.stride()[:3], *d_value.stride()[:3], *numbers, **constants,
    )  # fmt: skip
    return d_query, d_key, d_value, delta


def table_gradient(
    grad_output,
    query,
    key,
    value,
    table,
    query_codes,
    key_codes,
    key_of_code,
    shift,
    key_mask,
    log_sum,
    delta,
    scaling,
) -> torch.Tensor:
    """The gradient of the table before it was multiplied by log2 e, float32.

    Tiles of the scores' gradients are summed over the batch where they arise, a chunk of queries at a time; then each
    entry gathers, from each query's row, the one key that reads it.

    Args:
        key_of_code: int32, the key with the code c at place c + `shift`, and -1 where there is none.
    """
    batch, heads, queries, width = query.shape
    keys = key.shape[2]
    block_q, block_k, constants = _tile("table", query, key, key_mask)
    tiles = _parts(queries, block_q) * _parts(keys, block_k) * heads
    # one part of the batch per table, or enough of them to keep the device busy
    parts = batch if len(table) > 1 else max(1, min(batch // 16, _parts(PROGRAMS, tiles)))
    rows = max(1, WORKSPACE // (4 * parts * heads * keys) // block_q) * block_q
    gradient = None
    sums = log_sum.new_empty(parts, heads, min(rows, queries), keys)
    for start in range(0, queries, rows):
        count = min(rows, queries - start)
        grid = (_parts(keys, block_k), _parts(count, block_q), parts * heads)
        sum_score_gradients[grid](
            query, key, value, table, query_codes, key_codes, key_mask, grad_output, log_sum, delta, sums,
            *query.stride()[:3], *key.stride()[:3], *value.stride()[:3], *grad_output.stride()[:3],
            *sums.stride()[:3], *_table_strides(table), heads, queries, keys, width, scaling,
            start, batch, _parts(batch, parts), OF_EACH=len(table) > 1, **constants,
        )  # fmt: skip
        gathered = gather_entries(sums[:, :, :count], table, query_codes[start:], key_of_code, shift)
        gradient = gathered if gradient is None else gradient + gathered
    return gradient


def gather_entries(sums, table, query_codes, key_of_code, shift) -> torch.Tensor:
    """From the scores' gradients (parts, H, Q, K), summed over parts of the batch, those of the table's entries."""
    parts, heads, queries, _ = sums.shape
    each = _parts(queries, GATHERERS)
    gathered = sums.new_empty(_parts(queries, each), *table.shape)
    gather_from_scores[(_parts(table.shape[2], 128), heads, len(table) * len(gathered))](
        sums, query_codes, key_of_code, gathered, *sums.stride(), *gathered.stride()[:3],
        queries, each, len(gathered), parts // len(table), len(key_of_code), shift, table.shape[2], BLOCK=128,
    )  # fmt: skip
    return gathered.sum(dim=0)


def _tile(kernel: str, query: torch.Tensor, key: torch.Tensor, key_mask) -> tuple[int, int, dict]:
    """Queries and keys of a tile, and a kernel's constants."""
    tile = TILES[kernel] if query.itemsize == 2 and query.shape[-1] <= 64 else WIDE_TILE
    return _constants(tile, query.shape[2], key.shape[2], query.shape[3], query.dtype, key_mask is not None)


@functools.lru_cache(maxsize=256)
def _constants(tile, queries, keys, width, dtype, has_mask):
    block_q, block_k, warps, stages = tile
    block_q = min(block_q, max(16, triton.next_power_of_2(queries)))
    block_k = min(block_k, max(16, triton.next_power_of_2(keys)))
    padded_width = max(16, triton.next_power_of_2(width))
    return (
        block_q,
        block_k,
        {
            "HAS_MASK": has_mask,
            "FEW_QUERIES": 0 < queries % block_q <= FEW.value < block_q,
            "FEW_KEYS": 0 < keys % block_k <= FEW.value < block_k,
            "ALL_SEEN": not has_mask and keys % block_k == 0,
            "BLOCK_Q": block_q,
            "BLOCK_K": block_k,
            "WIDTH": padded_width,
            "WHOLE": width == padded_width,
            # float32 stays float32: tensor cores would round it to 10 bits
            "PRECISION": "ieee" if dtype == torch.float32 else "tf32",
            "num_warps": warps,
            "num_stages": stages,
        },
    )


def _parts(count: int, size: int) -> int:
    """Parts of a size, the last one perhaps smaller. Triton's own is made for kernels, and slow outside them."""
    return -(-count // size)


def _table_strides(table: torch.Tensor) -> tuple[int, int]:
    return (table.stride(0) if len(table) > 1 else 0), table.stride(1)
