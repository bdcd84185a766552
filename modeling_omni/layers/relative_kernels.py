"""Triton kernels of attention with a relative position bias that is looked up and never written out.

Which entry a query and a key read is the difference of two numbers, the query's code and the key's, whatever the grid:
no index and no bias of Q x K is ever in memory. All sums have one order, so that each run gives the same bits.

Shapes: B batch, H heads, Q queries, K keys, d head width, E entries of a table by code.
"""

import torch
import triton
import triton.language as tl

LOG2_E = 1.4426950408889634
# queries, keys, warps and stages of a tile, for 16-bit numbers and heads of up to 64, and for all others
TILES = {
    "forward": (128, 64, 8, 2),
    "query": (128, 64, 8, 2),
    "key_value": (128, 64, 8, 2),
    "table": (64, 64, 4, 2),
}
WIDE_TILE = (64, 32, 8, 2)
WORKSPACE = 2**26  # bytes in which gradients of scores are collected before they are summed into the table's


def attend(query, key, value, table, query_codes, key_codes, key_mask, scaling):
    """Attention in which query i and key j have the score q · k scaling + table[query_codes[i] - key_codes[j]].

    Args:
        query: (B, H, Q, d); key, value: (B, H, K, d), in any layout with d contiguous.
        table: (B or 1, H, E) float32, contiguous.
        query_codes: (Q,) int32; key_codes: (K,) int32.
        key_mask: (B, K) bool, False for keys that nobody sees; `None`: all are seen.

    Returns:
        The output (B, H, Q, d), laid out as (B, Q, H, d), 0 for a query that sees nothing, and the base-2 logarithm of
        each query's sum of exponentiated scores, (B, H, Q).
    """
    batch, heads, queries, width = query.shape
    output = query.new_empty(batch, queries, heads, width).transpose(1, 2)
    log_sum = query.new_empty(batch, heads, queries, dtype=torch.float32)
    block_q, _, constants = _tile("forward", query, key)
    _forward[(triton.cdiv(queries, block_q), batch * heads)](
        query, key, value, table, query_codes, key_codes, key_mask, output, log_sum,
        *query.stride()[:3], *key.stride()[:3], *value.stride()[:3], *output.stride()[:3],
        *_table_strides(table), heads, queries, key.shape[2], width, scaling * LOG2_E,
        HAS_MASK=key_mask is not None, **constants,
    )  # fmt: skip
    return output, log_sum


def attend_backward(grad_output, query, key, value, table, query_codes, key_codes, key_mask, output, log_sum, scaling):
    """Gradients of query, key and value, and delta (B, H, Q), the product of each output with its gradient."""
    batch, heads, queries, width = query.shape
    keys = key.shape[2]
    d_query, d_key, d_value = (_like_rows(states) for states in (query, key, value))
    delta = torch.empty_like(log_sum)
    given = (query, key, value, table, query_codes, key_codes, key_mask, grad_output, log_sum, delta)
    strides = (*query.stride()[:3], *key.stride()[:3], *value.stride()[:3], *grad_output.stride()[:3])
    numbers = (*_table_strides(table), heads, queries, keys, width, scaling)
    has_mask = key_mask is not None
    block_q, _, constants = _tile("query", query, key)
    _backward_query[(triton.cdiv(queries, block_q), batch * heads)](
        *given, output, d_query, *strides, *output.stride()[:3], *d_query.stride()[:3], *numbers,
        HAS_MASK=has_mask, **constants,
    )  # fmt: skip
    _, block_k, constants = _tile("key_value", query, key)
    _backward_key_value[(triton.cdiv(keys, block_k), batch * heads)](
        *given, d_key, d_value, *strides, *d_key.stride()[:3], *d_value.stride()[:3], *numbers,
        HAS_MASK=has_mask, **constants,
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
    """The gradient of the table, like it.

    Tiles of the scores' gradients are summed over the batch where they arise, a chunk of queries at a time; then each
    entry gathers, from each query's row, the one key that reads it.

    Args:
        key_of_code: int32, the key with the code c at place c + `shift`, and -1 where there is none.
    """
    batch, heads, queries, width = query.shape
    keys = key.shape[2]
    block_q, block_k, constants = _tile("table", query, key)
    tiles = triton.cdiv(queries, block_q) * triton.cdiv(keys, block_k) * heads
    # one part of the batch per table, or enough of them to keep the device busy
    parts = batch if len(table) > 1 else max(1, min(batch // 16, triton.cdiv(512, tiles)))
    rows = max(1, WORKSPACE // (4 * parts * heads * keys) // block_q) * block_q
    gradient = torch.zeros_like(table)
    sums = table.new_empty(parts, heads, min(rows, queries), keys)
    for start in range(0, queries, rows):
        count = min(rows, queries - start)
        grid = (triton.cdiv(keys, block_k), triton.cdiv(count, block_q), parts * heads)
        _sum_score_gradients[grid](
            query, key, value, table, query_codes, key_codes, key_mask, grad_output, log_sum, delta, sums,
            *query.stride()[:3], *key.stride()[:3], *value.stride()[:3], *grad_output.stride()[:3],
            *sums.stride()[:3], *_table_strides(table), heads, queries, keys, width, scaling,
            start, batch, triton.cdiv(batch, parts), HAS_MASK=key_mask is not None, **constants,
        )  # fmt: skip
        _gather_entries[(triton.cdiv(table.shape[2], 128), heads, len(table))](
            sums, query_codes, key_of_code, gradient, *sums.stride()[:3], *gradient.stride()[:2],
            start, count, parts // len(table), len(key_of_code), shift, table.shape[2], BLOCK=128,
        )  # fmt: skip
    return gradient


def _tile(kernel: str, query: torch.Tensor, key: torch.Tensor) -> tuple[int, int, dict]:
    """Queries and keys of a tile, and a kernel's constants."""
    width = max(16, triton.next_power_of_2(query.shape[-1]))
    block_q, block_k, warps, stages = TILES[kernel] if query.element_size() == 2 and width <= 64 else WIDE_TILE
    block_q = min(block_q, max(16, triton.next_power_of_2(query.shape[2])))
    block_k = min(block_k, max(16, triton.next_power_of_2(key.shape[2])))
    return (
        block_q,
        block_k,
        {
            "BLOCK_Q": block_q,
            "BLOCK_K": block_k,
            "WIDTH": width,
            # float32 stays float32: tensor cores would round it to 10 bits
            "PRECISION": "ieee" if query.dtype == torch.float32 else "tf32",
            "num_warps": warps,
            "num_stages": stages,
        },
    )


def _table_strides(table: torch.Tensor) -> tuple[int, int]:
    return (table.stride(0) if len(table) > 1 else 0), table.stride(1)


def _like_rows(states: torch.Tensor) -> torch.Tensor:
    """Empty (B, H, N, d), laid out as (B, N, H, d)."""
    batch, heads, length, width = states.shape
    return states.new_empty(batch, length, heads, width).transpose(1, 2)


@triton.jit
def _load_rows(pointer, at, stride, row, length, width, WIDTH: tl.constexpr):
    """Rows (n, WIDTH), 0 outside."""
    d = tl.arange(0, WIDTH)
    inside = (row < length)[:, None] & (d < width)[None, :]
    return tl.load(pointer + at + row[:, None].to(tl.int64) * stride + d[None, :], inside, 0.0)


@triton.jit
def _store_rows(pointer, at, stride, row, length, width, values, WIDTH: tl.constexpr):
    d = tl.arange(0, WIDTH)
    inside = (row < length)[:, None] & (d < width)[None, :]
    tl.store(
        pointer + at + row[:, None].to(tl.int64) * stride + d[None, :], values.to(pointer.dtype.element_ty), inside
    )


@triton.jit
def _scores(queries, keys, q, k, table, query_codes, key_codes, key_mask, b, num_queries, num_keys, scale,
            HAS_MASK: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Scores of a tile times log2 e, -inf for keys that are not there; `table` points at a head's entries."""
    seen = k < num_keys
    if HAS_MASK:
        seen = seen & (tl.load(key_mask + b * num_keys + k, seen, 0) != 0)
    entry = tl.load(query_codes + q, q < num_queries, 0)[:, None] - tl.load(key_codes + k, k < num_keys, 0)[None, :]
    inside = (q < num_queries)[:, None] & seen[None, :]
    bias = tl.load(table + entry, inside, 0.0)
    scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scale + bias * 1.4426950408889634
    return tl.where(seen[None, :], scores, float("-inf"))


@triton.jit
def _forward(
    query, key, value, table, query_codes, key_codes, key_mask, output, log_sum,
    query_b, query_h, query_n, key_b, key_h, key_n, value_b, value_h, value_n, output_b, output_h, output_n,
    table_b, table_h, heads, num_queries, num_keys, width, scale,
    HAS_MASK: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    b, h = (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
    q = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    table += b * table_b + h * table_h
    queries = _load_rows(query, b * query_b + h * query_h, query_n, q, num_queries, width, WIDTH)
    top = tl.full((BLOCK_Q,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_Q,), tl.float32)
    sums = tl.zeros((BLOCK_Q, WIDTH), tl.float32)
    for start in range(0, num_keys, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        keys = _load_rows(key, b * key_b + h * key_h, key_n, k, num_keys, width, WIDTH)
        values = _load_rows(value, b * value_b + h * value_h, value_n, k, num_keys, width, WIDTH)
        scores = _scores(queries, keys, q, k, table, query_codes, key_codes, key_mask, b, num_queries, num_keys,
                         scale, HAS_MASK, PRECISION)  # fmt: skip
        new_top = tl.maximum(top, tl.max(scores, axis=1))
        base = tl.where(new_top == float("-inf"), 0.0, new_top)  # nothing seen yet: no NaN
        weights = tl.exp2(scores - base[:, None])
        shrink = tl.exp2(top - base)
        total = total * shrink + tl.sum(weights, axis=1)
        sums = sums * shrink[:, None] + tl.dot(weights.to(values.dtype), values, input_precision=PRECISION)
        top = new_top
    blind = total == 0.0
    sums = sums / tl.where(blind, 1.0, total)[:, None]
    _store_rows(output, b * output_b + h * output_h, output_n, q, num_queries, width, sums, WIDTH)
    logs = tl.where(blind, float("inf"), top + tl.log2(tl.where(blind, 1.0, total)))
    tl.store(log_sum + tl.program_id(1).to(tl.int64) * num_queries + q, logs, q < num_queries)


@triton.jit
def _backward_query(
    query, key, value, table, query_codes, key_codes, key_mask, grad, log_sum, delta, output, d_query,
    query_b, query_h, query_n, key_b, key_h, key_n, value_b, value_h, value_n, grad_b, grad_h, grad_n,
    output_b, output_h, output_n, d_query_b, d_query_h, d_query_n,
    table_b, table_h, heads, num_queries, num_keys, width, scaling,
    HAS_MASK: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    b, h = (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
    q = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    row = tl.program_id(1).to(tl.int64) * num_queries + q
    table += b * table_b + h * table_h
    queries = _load_rows(query, b * query_b + h * query_h, query_n, q, num_queries, width, WIDTH)
    grads = _load_rows(grad, b * grad_b + h * grad_h, grad_n, q, num_queries, width, WIDTH)
    outputs = _load_rows(output, b * output_b + h * output_h, output_n, q, num_queries, width, WIDTH)
    along = tl.sum(outputs.to(tl.float32) * grads.to(tl.float32), axis=1)
    tl.store(delta + row, along, q < num_queries)
    logs = tl.load(log_sum + row, q < num_queries, float("inf"))
    sums = tl.zeros((BLOCK_Q, WIDTH), tl.float32)
    for start in range(0, num_keys, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        keys = _load_rows(key, b * key_b + h * key_h, key_n, k, num_keys, width, WIDTH)
        values = _load_rows(value, b * value_b + h * value_h, value_n, k, num_keys, width, WIDTH)
        scores = _scores(queries, keys, q, k, table, query_codes, key_codes, key_mask, b, num_queries, num_keys,
                         scaling * 1.4426950408889634, HAS_MASK, PRECISION)  # fmt: skip
        toward = tl.dot(grads, tl.trans(values), input_precision=PRECISION)
        d_scores = tl.exp2(scores - logs[:, None]) * (toward - along[:, None])
        sums += tl.dot(d_scores.to(keys.dtype), keys, input_precision=PRECISION)
    _store_rows(d_query, b * d_query_b + h * d_query_h, d_query_n, q, num_queries, width, sums * scaling, WIDTH)


@triton.jit
def _backward_key_value(
    query, key, value, table, query_codes, key_codes, key_mask, grad, log_sum, delta, d_key, d_value,
    query_b, query_h, query_n, key_b, key_h, key_n, value_b, value_h, value_n, grad_b, grad_h, grad_n,
    d_key_b, d_key_h, d_key_n, d_value_b, d_value_h, d_value_n,
    table_b, table_h, heads, num_queries, num_keys, width, scaling,
    HAS_MASK: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    b, h = (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
    k = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    table += b * table_b + h * table_h
    keys = _load_rows(key, b * key_b + h * key_h, key_n, k, num_keys, width, WIDTH)
    values = _load_rows(value, b * value_b + h * value_h, value_n, k, num_keys, width, WIDTH)
    key_sums = tl.zeros((BLOCK_K, WIDTH), tl.float32)
    value_sums = tl.zeros((BLOCK_K, WIDTH), tl.float32)
    for start in range(0, num_queries, BLOCK_Q):
        q = start + tl.arange(0, BLOCK_Q)
        row = tl.program_id(1).to(tl.int64) * num_queries + q
        queries = _load_rows(query, b * query_b + h * query_h, query_n, q, num_queries, width, WIDTH)
        grads = _load_rows(grad, b * grad_b + h * grad_h, grad_n, q, num_queries, width, WIDTH)
        logs = tl.load(log_sum + row, q < num_queries, float("inf"))
        along = tl.load(delta + row, q < num_queries, 0.0)
        scores = _scores(queries, keys, q, k, table, query_codes, key_codes, key_mask, b, num_queries, num_keys,
                         scaling * 1.4426950408889634, HAS_MASK, PRECISION)  # fmt: skip
        weights = tl.exp2(scores - logs[:, None])
        value_sums += tl.dot(tl.trans(weights.to(grads.dtype)), grads, input_precision=PRECISION)
        toward = tl.dot(grads, tl.trans(values), input_precision=PRECISION)
        d_scores = weights * (toward - along[:, None])
        key_sums += tl.dot(tl.trans(d_scores.to(queries.dtype)), queries, input_precision=PRECISION)
    _store_rows(d_key, b * d_key_b + h * d_key_h, d_key_n, k, num_keys, width, key_sums * scaling, WIDTH)
    _store_rows(d_value, b * d_value_b + h * d_value_h, d_value_n, k, num_keys, width, value_sums, WIDTH)


@triton.jit
def _sum_score_gradients(
    query, key, value, table, query_codes, key_codes, key_mask, grad, log_sum, delta, sums,
    query_b, query_h, query_n, key_b, key_h, key_n, value_b, value_h, value_n, grad_b, grad_h, grad_n,
    sums_p, sums_h, sums_n, table_b, table_h, heads, num_queries, num_keys, width, scaling,
    first_query, batch, samples,
    HAS_MASK: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradients of a tile of scores, summed over the samples of one part of the batch."""
    part, h = tl.program_id(2) // heads, tl.program_id(2) % heads
    k = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    place = tl.program_id(1) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    q = first_query + place
    total = tl.zeros((BLOCK_Q, BLOCK_K), tl.float32)
    for sample in range(part * samples, tl.minimum((part + 1) * samples, batch)):
        b = tl.cast(sample, tl.int64)
        row = (b * heads + h) * num_queries + q
        queries = _load_rows(query, b * query_b + h * query_h, query_n, q, num_queries, width, WIDTH)
        grads = _load_rows(grad, b * grad_b + h * grad_h, grad_n, q, num_queries, width, WIDTH)
        keys = _load_rows(key, b * key_b + h * key_h, key_n, k, num_keys, width, WIDTH)
        values = _load_rows(value, b * value_b + h * value_h, value_n, k, num_keys, width, WIDTH)
        logs = tl.load(log_sum + row, q < num_queries, float("inf"))
        along = tl.load(delta + row, q < num_queries, 0.0)
        scores = _scores(queries, keys, q, k, table + b * table_b + h * table_h, query_codes, key_codes, key_mask, b,
                         num_queries, num_keys, scaling * 1.4426950408889634, HAS_MASK, PRECISION)  # fmt: skip
        toward = tl.dot(grads, tl.trans(values), input_precision=PRECISION)
        total += tl.exp2(scores - logs[:, None]) * (toward - along[:, None])
    inside = (q < num_queries)[:, None] & (k < num_keys)[None, :]
    at = tl.cast(part, tl.int64) * sums_p + h * sums_h
    tl.store(sums + at + place[:, None] * sums_n + k[None, :], total, inside)


@triton.jit
def _gather_entries(
    sums, query_codes, key_of_code, gradient, sums_p, sums_h, sums_n, gradient_b, gradient_h,
    first_query, count, parts, codes, shift, entries, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add to a block of the table's entries what a chunk of queries has for them."""
    entry = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    h, b = tl.program_id(1), tl.program_id(2)
    total = tl.zeros((BLOCK,), tl.float32)
    for place in range(0, count):
        code = tl.load(query_codes + first_query + place) - entry + shift
        there = (code >= 0) & (code < codes) & (entry < entries)
        k = tl.load(key_of_code + code, there, -1)
        for part in range(b * parts, (b + 1) * parts):
            at = tl.cast(part, tl.int64) * sums_p + h * sums_h + place * sums_n
            total += tl.load(sums + at + k, k >= 0, 0.0)
    at = gradient + b * gradient_b + h * gradient_h + entry
    tl.store(at, tl.load(at, entry < entries, 0.0) + total, entry < entries)
