"""The gradient of the gates in a `GatedMask`, as one Triton kernel that reads everything once.

Shapes: B batch, H heads, Q queries, N gated keys, d head width.
"""

import torch
import triton
import triton.language as tl

BLOCK_QUERIES, BLOCK_KEYS = 64, 32


def sum_score_gradients(query, key, value, output, grad_output, bias, gated, log_sum, scaling) -> torch.Tensor:
    """The gradients of the scores that gates raise, summed over batch, heads and queries: (N,) in float32.

    With weights P = exp(scores - log_sum), a score's gradient is P (do · v - do · o) (Dao et al. 2022, appendix B.2).
    Sums are taken in one order, so that each run gives the same bits.

    Args:
        query, output, grad_output: (B, H, Q, d), in any layout in memory.
        key, value: (B, H, N, d).
        bias: (B, H or 1, Q, N or more), added to the scores.
        gated: (B, 1, Q, N or more), 1 where a gate raises the score and 0 where not.
        log_sum: (B, H, Q, 1), log of each query's sum of exponentiated scores over all keys.
    """
    batch, heads, queries, width = query.shape
    count = key.shape[2]
    tensors = [row if row.stride(-1) == 1 else row.contiguous() for row in (query, key, value, output, grad_output)]
    grid = (triton.cdiv(queries, BLOCK_QUERIES), batch * heads, triton.cdiv(count, BLOCK_KEYS))
    sums = query.new_empty((grid[1], grid[0], count), dtype=torch.float32)
    bias = bias.expand(batch, heads, queries, -1)
    _sum_score_gradients[grid](
        *tensors,
        bias,
        gated,
        log_sum.contiguous(),
        sums,
        *(stride for tensor in tensors for stride in tensor.stride()[:3]),
        *bias.stride(),
        gated.stride(0),
        gated.stride(2),
        gated.stride(3),
        heads,
        queries,
        count,
        width,
        scaling,
        BLOCK_QUERIES,
        BLOCK_KEYS,
        max(16, triton.next_power_of_2(width)),
    )
    return sums.sum((0, 1))


@triton.jit
def _sum_score_gradients(
    query, key, value, output, grad_output, bias, gated, log_sum, sums,
    query_b, query_h, query_q, key_b, key_h, key_k, value_b, value_h, value_k,
    output_b, output_h, output_q, grad_b, grad_h, grad_q,
    bias_b, bias_h, bias_q, bias_k, gated_b, gated_q, gated_k,
    heads, queries, count, width, scaling,
    BLOCK_QUERIES: tl.constexpr, BLOCK_KEYS: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
):  # fmt: skip
    b, h = tl.program_id(1) // heads, tl.program_id(1) % heads
    q = tl.program_id(0) * BLOCK_QUERIES + tl.arange(0, BLOCK_QUERIES)
    k = tl.program_id(2) * BLOCK_KEYS + tl.arange(0, BLOCK_KEYS)
    d = tl.arange(0, BLOCK_WIDTH)
    b = b.to(tl.int64)
    of_query = (q < queries)[:, None] & (d < width)[None, :]
    of_key = (k < count)[:, None] & (d < width)[None, :]
    of_score = (q < queries)[:, None] & (k < count)[None, :]

    queries_in = tl.load(query + b * query_b + h * query_h + q[:, None] * query_q + d[None, :], of_query, 0.0)
    outputs = tl.load(output + b * output_b + h * output_h + q[:, None] * output_q + d[None, :], of_query, 0.0)
    grads = tl.load(grad_output + b * grad_b + h * grad_h + q[:, None] * grad_q + d[None, :], of_query, 0.0)
    keys = tl.load(key + b * key_b + h * key_h + k[:, None] * key_k + d[None, :], of_key, 0.0)
    values = tl.load(value + b * value_b + h * value_h + k[:, None] * value_k + d[None, :], of_key, 0.0)
    biases = tl.load(bias + b * bias_b + h * bias_h + q[:, None] * bias_q + k[None, :] * bias_k, of_score, 0.0)
    gates = tl.load(gated + b * gated_b + q[:, None] * gated_q + k[None, :] * gated_k, of_score, 0.0)
    log_sums = tl.load(log_sum + tl.program_id(1) * queries + q, q < queries, 0.0)

    scores = tl.dot(queries_in, tl.trans(keys)) * scaling + biases.to(tl.float32)
    weights = tl.exp(scores - log_sums[:, None])
    along = tl.sum(outputs.to(tl.float32) * grads.to(tl.float32), axis=1)
    toward = tl.dot(grads, tl.trans(values))
    gradients = tl.where(gates != 0, weights * (toward - along[:, None]), 0.0)
    place = (tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)) * count + k
    tl.store(sums + place, tl.sum(gradients, axis=0), k < count)
