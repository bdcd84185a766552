"""What one program of each Triton kernel of attention with a relative position bias does.

A program works on a tile of queries, or of keys for the gradients of keys and values, and walks along the other side. The
last tile is a small one where few rows are left: 14 x 14 patches are three tiles of 64 and 4 more.

Arguments are those of `relative_kernels`, each tensor's strides named by it and an axis: batch, head, row (`_n`). Shapes of
tiles: BLOCK_Q queries, BLOCK_K keys, WIDTH the head's width up to the next power of 2 and WHOLE where it is one.
"""

import torch
import triton
import triton.language as tl

# neither in Triton's interpreter nor on AMD's cards
PTX = tl.constexpr(torch.version.cuda is not None and not triton.knobs.runtime.interpret)
LOG2_E = tl.constexpr(1.4426950408889634)
FEW = tl.constexpr(16)  # rows of the last tile where no more are left


@triton.jit
def _load_rows(pointer, stride, row, length, width, WIDTH: tl.constexpr, WHOLE: tl.constexpr):
    """Rows (n, WIDTH); beyond the last one that one again, whose weights the caller makes 0."""
    d = tl.arange(0, WIDTH)
    at = pointer + tl.minimum(row, length - 1)[:, None] * stride + d[None, :]
    if WHOLE:
        return tl.load(at)
    return tl.load(at, (d < width)[None, :], 0.0)


@triton.jit
def _store_rows(pointer, stride, row, length, width, values, WIDTH: tl.constexpr):
    d = tl.arange(0, WIDTH)
    inside = (row < length)[:, None] & (d < width)[None, :]
    tl.store(pointer + row[:, None] * stride + d[None, :], values.to(pointer.dtype.element_ty), inside)


@triton.jit
def _look_up(pointer):
    """Numbers of 4 bytes from anywhere, read by the very threads that need them.

    `tl.load` reads in an order of its own, and carries what it read to those threads through shared memory: a tenth of the
    time of attention to 196 tokens on an H100.
    """
    if PTX:
        number = tl.inline_asm_elementwise(
            "ld.global.nc.b32 $0, [$1];", "=r,l", [pointer.to(tl.int64)], tl.int32, is_pure=True, pack=1
        )
        number = number.to(pointer.dtype.element_ty, bitcast=True)
    else:
        number = tl.load(pointer)
    return number


@triton.jit
def _seen(k, num_keys, key_mask, b, HAS_MASK: tl.constexpr):
    seen = k < num_keys
    if HAS_MASK:
        seen = seen & (tl.load(key_mask + b * num_keys + k, seen, 0) != 0)
    return seen


@triton.jit
def _read_keys(
    queries, query_code, k, key, value, table, key_codes, key_n, value_n, num_keys, width, scale,
    WIDTH: tl.constexpr, WHOLE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Keys, values, and the scores that a tile of queries gives them."""
    keys = _load_rows(key, key_n, k, num_keys, width, WIDTH, WHOLE)
    values = _load_rows(value, value_n, k, num_keys, width, WIDTH, WHOLE)
    bias = _look_up((table + query_code)[:, None] - _look_up(key_codes + k)[None, :])
    return keys, values, tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scale + bias


@triton.jit
def forward(
    query, key, value, table, query_codes, key_codes, key_mask, output, log_sum,
    query_b, query_h, query_n, key_b, key_h, key_n, value_b, value_h, value_n, output_b, output_h, output_n,
    table_b, table_h, heads, num_queries, num_keys, width, scale,
    HAS_MASK: tl.constexpr, ALL_SEEN: tl.constexpr, FEW_QUERIES: tl.constexpr, FEW_KEYS: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, WIDTH: tl.constexpr, WHOLE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    b, h = (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
    first = tl.program_id(0) * BLOCK_Q
    given = (
        query + b * query_b + h * query_h, key + b * key_b + h * key_h, value + b * value_b + h * value_h,
        table + b * table_b + h * table_h, query_codes, key_codes, key_mask, output + b * output_b + h * output_h,
        log_sum + tl.program_id(1).to(tl.int64) * num_queries,
        query_n, key_n, value_n, output_n, num_queries, num_keys, width, scale, b,
    )  # fmt: skip
    if FEW_QUERIES:
        if first + FEW >= num_queries:
            _forward_tile(given, first, HAS_MASK, ALL_SEEN, FEW, BLOCK_K, WIDTH, WHOLE, PRECISION)
            return
    _forward_tile(given, first, HAS_MASK, ALL_SEEN, BLOCK_Q, BLOCK_K, WIDTH, WHOLE, PRECISION)


@triton.jit
def _forward_tile(
    given, first, HAS_MASK: tl.constexpr, ALL_SEEN: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    WIDTH: tl.constexpr, WHOLE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    (
        query, key, value, table, query_codes, key_codes, key_mask, output, log_sum,
        query_n, key_n, value_n, output_n, num_queries, num_keys, width, scale, b,
    ) = given  # fmt: skip
    q = first + tl.arange(0, BLOCK_Q)
    queries = _load_rows(query, query_n, q, num_queries, width, WIDTH, WHOLE)
    query_code = tl.load(query_codes + q)
    top = tl.full((BLOCK_Q,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_Q,), tl.float32)
    sums = tl.zeros((BLOCK_Q, WIDTH), tl.float32)
    for start in range(0, num_keys, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        keys, values, scores = _read_keys(
            queries, query_code, k, key, value, table, key_codes, key_n, value_n, num_keys, width, scale,
            WIDTH, WHOLE, PRECISION,
        )  # fmt: skip
        if not ALL_SEEN:
            scores = tl.where(_seen(k, num_keys, key_mask, b, HAS_MASK)[None, :], scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, axis=1))
        base = new_top
        if HAS_MASK:
            base = tl.where(new_top == float("-inf"), 0.0, new_top)  # nothing seen yet: no NaN
        weights = tl.exp2(scores - base[:, None])
        shrink = tl.exp2(top - base)
        total = total * shrink + tl.sum(weights, axis=1)
        sums = tl.dot(weights.to(values.dtype), values, sums * shrink[:, None], input_precision=PRECISION)
        top = new_top
    blind = total == 0.0
    sums = sums / tl.where(blind, 1.0, total)[:, None]
    _store_rows(output, output_n, q, num_queries, width, sums, WIDTH)
    logs = tl.where(blind, float("inf"), top + tl.log2(tl.where(blind, 1.0, total)))
    tl.store(log_sum + q, logs, q < num_queries)


@triton.jit
def backward_query(
    query, key, value, table, query_codes, key_codes, key_mask, grad, log_sum, delta, output, d_query,
    query_b, query_h, query_n, key_b, key_h, key_n, value_b, value_h, value_n, grad_b, grad_h, grad_n,
    output_b, output_h, output_n, d_query_b, d_query_h, d_query_n,
    table_b, table_h, heads, num_queries, num_keys, width, scaling,
    HAS_MASK: tl.constexpr, ALL_SEEN: tl.constexpr, FEW_QUERIES: tl.constexpr, FEW_KEYS: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, WIDTH: tl.constexpr, WHOLE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    b, h = (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
    first, rows = tl.program_id(0) * BLOCK_Q, tl.program_id(1).to(tl.int64) * num_queries
    given = (
        query + b * query_b + h * query_h, key + b * key_b + h * key_h, value + b * value_b + h * value_h,
        table + b * table_b + h * table_h, query_codes, key_codes, key_mask, grad + b * grad_b + h * grad_h,
        log_sum + rows, delta + rows, output + b * output_b + h * output_h, d_query + b * d_query_b + h * d_query_h,
        query_n, key_n, value_n, grad_n, output_n, d_query_n, num_queries, num_keys, width, scaling, b,
    )  # fmt: skip
    if FEW_QUERIES:
        if first + FEW >= num_queries:
            _backward_query_tile(given, first, HAS_MASK, ALL_SEEN, FEW, BLOCK_K, WIDTH, WHOLE, PRECISION)
            return
    _backward_query_tile(given, first, HAS_MASK, ALL_SEEN, BLOCK_Q, BLOCK_K, WIDTH, WHOLE, PRECISION)


@triton.jit
def _backward_query_tile(
    given, first, HAS_MASK: tl.constexpr, ALL_SEEN: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    WIDTH: tl.constexpr, WHOLE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    (
        query, key, value, table, query_codes, key_codes, key_mask, grad, log_sum, delta, output, d_query,
        query_n, key_n, value_n, grad_n, output_n, d_query_n, num_queries, num_keys, width, scaling, b,
    ) = given  # fmt: skip
    q = first + tl.arange(0, BLOCK_Q)
    scale = scaling * LOG2_E
    queries = _load_rows(query, query_n, q, num_queries, width, WIDTH, WHOLE)
    grads = _load_rows(grad, grad_n, q, num_queries, width, WIDTH, WHOLE)
    outputs = _load_rows(output, output_n, q, num_queries, width, WIDTH, WHOLE)
    along = tl.sum(outputs.to(tl.float32) * grads.to(tl.float32), axis=1)
    tl.store(delta + q, along, q < num_queries)
    logs = tl.load(log_sum + q, q < num_queries, float("inf"))
    query_code = tl.load(query_codes + q)
    sums = tl.zeros((BLOCK_Q, WIDTH), tl.float32)
    for start in range(0, num_keys, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        keys, values, scores = _read_keys(
            queries, query_code, k, key, value, table, key_codes, key_n, value_n, num_keys, width, scale,
            WIDTH, WHOLE, PRECISION,
        )  # fmt: skip
        weights = tl.exp2(scores - logs[:, None])
        if not ALL_SEEN:
            weights = tl.where(_seen(k, num_keys, key_mask, b, HAS_MASK)[None, :], weights, 0.0)
        toward = tl.dot(grads, tl.trans(values), input_precision=PRECISION)
        d_scores = weights * (toward - along[:, None])
        sums = tl.dot(d_scores.to(keys.dtype), keys, sums, input_precision=PRECISION)
    _store_rows(d_query, d_query_n, q, num_queries, width, sums * scaling, WIDTH)


@triton.jit
def backward_key_value(
    query, key, value, table, query_codes, key_codes, key_mask, grad, log_sum, delta, d_key, d_value,
    query_b, query_h, query_n, key_b, key_h, key_n, value_b, value_h, value_n, grad_b, grad_h, grad_n,
    d_key_b, d_key_h, d_key_n, d_value_b, d_value_h, d_value_n,
    table_b, table_h, heads, num_queries, num_keys, width, scaling,
    HAS_MASK: tl.constexpr, ALL_SEEN: tl.constexpr, FEW_QUERIES: tl.constexpr, FEW_KEYS: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, WIDTH: tl.constexpr, WHOLE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    b, h = (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
    first, rows = tl.program_id(0) * BLOCK_K, tl.program_id(1).to(tl.int64) * num_queries
    given = (
        query + b * query_b + h * query_h, key + b * key_b + h * key_h, value + b * value_b + h * value_h,
        table + b * table_b + h * table_h, query_codes, key_codes, key_mask, grad + b * grad_b + h * grad_h,
        log_sum + rows, delta + rows, d_key + b * d_key_b + h * d_key_h, d_value + b * d_value_b + h * d_value_h,
        query_n, key_n, value_n, grad_n, d_key_n, d_value_n, num_queries, num_keys, width, scaling, b,
    )  # fmt: skip
    if FEW_KEYS:
        if first + FEW >= num_keys:
            _backward_key_value_tile(given, first, HAS_MASK, BLOCK_Q, FEW, WIDTH, WHOLE, PRECISION)
            return
    _backward_key_value_tile(given, first, HAS_MASK, BLOCK_Q, BLOCK_K, WIDTH, WHOLE, PRECISION)


@triton.jit
def _backward_key_value_tile(
    given, first, HAS_MASK: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    WIDTH: tl.constexpr, WHOLE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    (
        query, key, value, table, query_codes, key_codes, key_mask, grad, log_sum, delta, d_key, d_value,
        query_n, key_n, value_n, grad_n, d_key_n, d_value_n, num_queries, num_keys, width, scaling, b,
    ) = given  # fmt: skip
    k = first + tl.arange(0, BLOCK_K)
    scale = scaling * LOG2_E
    keys = _load_rows(key, key_n, k, num_keys, width, WIDTH, WHOLE)
    values = _load_rows(value, value_n, k, num_keys, width, WIDTH, WHOLE)
    key_code = tl.load(key_codes + k)
    seen = _seen(k, num_keys, key_mask, b, HAS_MASK)
    key_sums = tl.zeros((BLOCK_K, WIDTH), tl.float32)
    value_sums = tl.zeros((BLOCK_K, WIDTH), tl.float32)
    q = tl.arange(0, BLOCK_Q)
    logs = tl.load(log_sum + q, q < num_queries, float("inf"))
    along = tl.load(delta + q, q < num_queries, 0.0)
    for _ in range(0, num_queries, BLOCK_Q):
        queries = _load_rows(query, query_n, q, num_queries, width, WIDTH, WHOLE)
        grads = _load_rows(grad, grad_n, q, num_queries, width, WIDTH, WHOLE)
        # keys are the rows here, so that the weights go into the next products as they are
        bias = _look_up((table - key_code)[:, None] + _look_up(query_codes + q)[None, :])
        scores = tl.dot(keys, tl.trans(queries), input_precision=PRECISION) * scale + bias
        weights = tl.exp2(scores - logs[None, :])
        if HAS_MASK:
            weights = tl.where(seen[:, None], weights, 0.0)
        value_sums = tl.dot(weights.to(grads.dtype), grads, value_sums, input_precision=PRECISION)
        toward = tl.dot(values, tl.trans(grads), input_precision=PRECISION)
        d_scores = weights * (toward - along[None, :])
        key_sums = tl.dot(d_scores.to(queries.dtype), queries, key_sums, input_precision=PRECISION)
        q += BLOCK_Q  # read ahead by hand: Triton would copy these through shared memory, number by number
        logs = tl.load(log_sum + q, q < num_queries, float("inf"))
        along = tl.load(delta + q, q < num_queries, 0.0)
    _store_rows(d_key, d_key_n, k, num_keys, width, key_sums * scaling, WIDTH)
    _store_rows(d_value, d_value_n, k, num_keys, width, value_sums, WIDTH)


@triton.jit
def sum_score_gradients(
    query, key, value, table, query_codes, key_codes, key_mask, grad, log_sum, delta, sums,
    query_b, query_h, query_n, key_b, key_h, key_n, value_b, value_h, value_n, grad_b, grad_h, grad_n,
    sums_p, sums_h, sums_n, table_b, table_h, heads, num_queries, num_keys, width, scaling,
    first_query, batch, samples,
    OF_EACH: tl.constexpr, HAS_MASK: tl.constexpr, ALL_SEEN: tl.constexpr, FEW_QUERIES: tl.constexpr,
    FEW_KEYS: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, WIDTH: tl.constexpr, WHOLE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradients of a tile of scores, summed over the samples of one part of the batch."""
    part, h = tl.program_id(2) // heads, tl.program_id(2) % heads
    first, first_key = tl.program_id(1) * BLOCK_Q, tl.program_id(0) * BLOCK_K
    given = (
        query + h * query_h, key + h * key_h, value + h * value_h, table + h * table_h, query_codes + first_query,
        key_codes, key_mask, grad + h * grad_h, log_sum, delta, sums + tl.cast(part, tl.int64) * sums_p + h * sums_h,
        query_b, query_n, key_b, key_n, value_b, value_n, grad_b, grad_n, sums_n, table_b, heads, num_queries, num_keys,
        width, scaling, first_query, h, part * samples, tl.minimum((part + 1) * samples, batch),
    )  # fmt: skip
    if FEW_QUERIES:
        if first_query + first + FEW >= num_queries:
            _sum_tile(given, first, first_key, OF_EACH, HAS_MASK, FEW, BLOCK_K, WIDTH, WHOLE, PRECISION)
            return
    if FEW_KEYS:
        if first_key + FEW >= num_keys:
            _sum_tile(given, first, first_key, OF_EACH, HAS_MASK, BLOCK_Q, FEW, WIDTH, WHOLE, PRECISION)
            return
    _sum_tile(given, first, first_key, OF_EACH, HAS_MASK, BLOCK_Q, BLOCK_K, WIDTH, WHOLE, PRECISION)


@triton.jit
def _sum_tile(
    given, first, first_key, OF_EACH: tl.constexpr, HAS_MASK: tl.constexpr, BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr, WIDTH: tl.constexpr, WHOLE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    (
        query, key, value, table, query_codes, key_codes, key_mask, grad, log_sum, delta, sums,
        query_b, query_n, key_b, key_n, value_b, value_n, grad_b, grad_n, sums_n, table_b, heads, num_queries, num_keys,
        width, scaling, first_query, h, begin, end,
    ) = given  # fmt: skip
    place, k = first + tl.arange(0, BLOCK_Q), first_key + tl.arange(0, BLOCK_K)
    q = first_query + place
    scale = scaling * LOG2_E
    entry = tl.load(query_codes + place)[:, None] - tl.load(key_codes + k)[None, :]
    if not OF_EACH:  # the same for all samples
        bias = tl.load(table + entry)
    total = tl.zeros((BLOCK_Q, BLOCK_K), tl.float32)
    for sample in range(begin, end):
        b = tl.cast(sample, tl.int64)
        row = (b * heads + h) * num_queries + q
        queries = _load_rows(query + b * query_b, query_n, q, num_queries, width, WIDTH, WHOLE)
        grads = _load_rows(grad + b * grad_b, grad_n, q, num_queries, width, WIDTH, WHOLE)
        keys = _load_rows(key + b * key_b, key_n, k, num_keys, width, WIDTH, WHOLE)
        values = _load_rows(value + b * value_b, value_n, k, num_keys, width, WIDTH, WHOLE)
        logs = tl.load(log_sum + row, q < num_queries, float("inf"))
        along = tl.load(delta + row, q < num_queries, 0.0)
        if OF_EACH:
            bias = tl.load(table + b * table_b + entry)
        scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scale + bias
        toward = tl.dot(grads, tl.trans(values), input_precision=PRECISION)
        d_scores = tl.exp2(scores - logs[:, None]) * (toward - along[:, None])
        if HAS_MASK:
            d_scores = tl.where(_seen(k, num_keys, key_mask, b, HAS_MASK)[None, :], d_scores, 0.0)
        total += d_scores
    inside = (q < num_queries)[:, None] & (k < num_keys)[None, :]
    tl.store(sums + place[:, None] * sums_n + k[None, :], total, inside)


@triton.jit
def gather_from_scores(
    sums, query_codes, key_of_code, gathered, sums_p, sums_h, sums_q, sums_k, gathered_g, gathered_b, gathered_h,
    queries, each, gatherers, parts, codes, shift, entries, BLOCK: tl.constexpr,
):  # fmt: skip
    """What some of the queries have for a block of the table's entries."""
    entry = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    h, b, gatherer = tl.program_id(1), tl.program_id(2) // gatherers, tl.program_id(2) % gatherers
    total = tl.zeros((BLOCK,), tl.float32)
    for place in range(gatherer * each, tl.minimum((gatherer + 1) * each, queries)):
        code = tl.load(query_codes + place) - entry + shift
        there = (code >= 0) & (code < codes) & (entry < entries)
        k = tl.load(key_of_code + code, there, -1)
        for part in range(b * parts, (b + 1) * parts):
            at = tl.cast(part, tl.int64) * sums_p + h * sums_h + place * sums_q
            total += tl.load(sums + at + k * sums_k, k >= 0, 0.0)
    tl.store(gathered + gatherer * gathered_g + b * gathered_b + h * gathered_h + entry, total, entry < entries)
