"""Attention that looks a relative position bias up inside the kernel.

Registered with transformers as `attn_implementation="relative"`. Shapes: B batch, H heads, Q queries, K keys, d head
width, P entries of a table.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface

from .heads import like_rows
from .kernels import expand_groups, get_kernel
from .key_masks import key_mask
from .relative_bias import LOOKUP_KERNELS, RelativeBias, bias_for_kernel
from .relative_position import CLASS_ENTRIES

NAME = "relative"
HAS_TRITON = find_spec("triton") is not None
NO_WEIGHTS = (
    'The attention kernel "relative" makes no weights, which `output_attentions=True` asks for: load the model with '
    '`attn_implementation="eager"`, or call `model.set_attn_implementation("eager")`.'
)
PADDING = 256  # tokens of the largest tile, whose kernel then need not ask where the codes end


@dataclass
class Codes:
    """A number for each query and each key, whose difference says which entry of `by_code(bias)` a pair reads.

    Args:
        queries: (Q,) int32; keys: (K,) int32; both padded to a multiple of 256 by repeating the last.
        key_of_code: int32, the key with code c at place c + `shift`, -1 where there is none.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    key_of_code: torch.Tensor
    shift: int


def largest_codes(query_size: Sequence[int], key_size: Sequence[int]) -> tuple[int, int]:
    """The codes of the last tokens of the two grids: row-major places on a grid of all offsets."""
    query = key = 0
    for q, k in zip(query_size, key_size):
        query, key = query * (q + k - 1) + q - 1, key * (q + k - 1) + k - 1
    return query, key


@functools.lru_cache(maxsize=64)
def make_codes(query_size: tuple[int, ...], key_size: tuple[int, ...], class_token: bool, device) -> Codes:
    """Row-major places on a grid of all offsets; the class tokens' codes lead to entries of their own."""
    queries = keys = torch.zeros(1, dtype=torch.long)
    for q, k in zip(query_size, key_size):
        queries = (queries[:, None] * (q + k - 1) + torch.arange(q)).flatten()
        keys = (keys[:, None] * (q + k - 1) + torch.arange(k)).flatten()
    largest_query, largest_key = largest_codes(query_size, key_size)
    queries = queries + largest_key  # the smallest difference is 0
    if class_token:
        offsets = largest_query + largest_key + 1
        queries = torch.cat([torch.tensor([offsets + largest_key]), queries])
        keys = torch.cat([torch.tensor([-offsets - 1]), keys])
    shift = -int(keys.min())
    key_of_code = torch.full((int(keys.max()) + shift + 1,), -1)
    key_of_code[keys + shift] = torch.arange(len(keys))
    queries, keys = (torch.cat([codes, codes[-1:].expand(-len(codes) % PADDING)]) for codes in (queries, keys))
    queries, keys, key_of_code = (codes.to(device, torch.int32) for codes in (queries, keys, key_of_code))
    return Codes(queries, keys, key_of_code, shift)


def by_code(bias: RelativeBias) -> torch.Tensor:
    """The table with an entry for each difference of codes, (B or 1, H, E) float32.

    A class token has one entry with all patches, which is repeated for each code there may be; sums of repeated
    entries have a fixed order, unlike those of an index.
    """
    table = bias.table if bias.table.ndim == 3 else bias.table.unsqueeze(0)
    table = table.transpose(1, 2).float()
    if not bias.class_token:
        return table.contiguous()
    largest_query, largest_key = largest_codes(bias.query_size, bias.key_size)
    class_to_patch, patch_to_class, class_to_class = table[..., -CLASS_ENTRIES:].split(1, dim=-1)
    return torch.cat(
        [
            table[..., :-CLASS_ENTRIES],
            class_to_patch.expand(-1, -1, largest_key + 1),
            patch_to_class.expand(-1, -1, largest_query + 1),
            torch.zeros_like(class_to_class).expand(-1, -1, largest_key),
            class_to_class,
        ],
        dim=-1,
    )


def relative_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: RelativeBias,
    key_mask: torch.Tensor | None = None,
    scaling: float | None = None,
) -> torch.Tensor:
    """softmax(q kᵀ scaling + bias) v, with no tensor of Q x K in memory, and gradients for the bias' table.

    Args:
        query: (B, H, Q, d) on CUDA; key, value: (B, H, K, d).
        bias: its grids have Q and K tokens.
        key_mask: (B, K), True where a key is seen.

    Returns:
        (B, H, Q, d), 0 for a query that sees no key.

    Raises:
        ValueError: for a bias of other sizes.
    """
    sizes = (math.prod(bias.query_size) + bias.class_token, math.prod(bias.key_size) + bias.class_token)
    if sizes != (query.shape[2], key.shape[2]):
        raise ValueError(f"The bias is one of {sizes} tokens, but there are {(query.shape[2], key.shape[2])}.")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    key_mask = None if key_mask is None else key_mask.bool().contiguous()
    query, key, value = (states if states.stride(-1) == 1 else states.contiguous() for states in (query, key, value))
    grids = (list(bias.query_size), list(bias.key_size), bias.class_token)
    # as one operator in a compiled graph; by itself an operator costs 0.2 ms of the CPU's time more
    attend = _attend if torch.compiler.is_compiling() else _RelativeAttention.apply
    return attend(query, key, value, by_code(bias), key_mask, *grids, scaling)[0]


def attend_by_kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    table: torch.Tensor,
    key_mask: torch.Tensor | None,
    query_size: list[int],
    key_size: list[int],
    class_token: bool,
    scaling: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The output, and what the backward pass asks for: the logarithms of the sums, and the table as kernels read it."""
    from . import relative_kernels  # imports Triton, which may be missing where there is no GPU

    codes = make_codes(tuple(query_size), tuple(key_size), class_token, query.device)
    table = table * relative_kernels.LOG2_E.value
    output, log_sum = relative_kernels.attend(query, key, value, table, codes.queries, codes.keys, key_mask, scaling)
    return output, log_sum, table


def attend_by_kernel_backward(
    grad_output: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    key_mask: torch.Tensor | None,
    output: torch.Tensor,
    log_sum: torch.Tensor,
    table: torch.Tensor,
    query_size: list[int],
    key_size: list[int],
    class_token: bool,
    scaling: float,
    learn_table: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of query, key, value and, unless `learn_table` is False, of the table."""
    from . import relative_kernels

    codes = make_codes(tuple(query_size), tuple(key_size), class_token, query.device)
    grad_output = grad_output if grad_output.stride(-1) == 1 else grad_output.contiguous()
    given = (grad_output, query, key, value, table, codes.queries, codes.keys)
    *gradients, delta = relative_kernels.attend_backward(*given, key_mask, output, log_sum, scaling)
    if not learn_table:
        return *gradients, table.new_empty(0)
    places = (codes.key_of_code, codes.shift)
    return *gradients, relative_kernels.table_gradient(*given, *places, key_mask, log_sum, delta, scaling)


def _remember(ctx, inputs, output):
    query, key, value, _, key_mask, *ctx.numbers = inputs
    ctx.save_for_backward(query, key, value, key_mask, *output)


def _gradients(backward, ctx, grad_output):
    *gradients, d_table = backward(grad_output, *ctx.saved_tensors, *ctx.numbers, ctx.needs_input_grad[3])
    return *gradients, d_table if ctx.needs_input_grad[3] else None, None, None, None, None, None


class _RelativeAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *inputs):  # with a `setup_context` beside it, each call would look at its signature
        output = attend_by_kernel(*inputs)
        _remember(ctx, inputs, output)
        ctx.set_materialize_grads(False)  # no zeros for what only backward reads
        return output

    @staticmethod
    def backward(ctx, grad_output, *grads_of_others):
        return _gradients(attend_by_kernel_backward, ctx, grad_output)


_attend = torch.library.custom_op("omnilatent::relative_attention", attend_by_kernel, mutates_args=())
_attend_backward = torch.library.custom_op(
    "omnilatent::relative_attention_backward", attend_by_kernel_backward, mutates_args=()
)
_attend.register_autograd(
    lambda ctx, grad_output, *grads_of_others: _gradients(_attend_backward, ctx, grad_output), setup_context=_remember
)


@_attend.register_fake
def _(query, key, value, table, *others):
    return like_rows(query), query.new_empty(query.shape[:3], dtype=torch.float32), torch.empty_like(table)


@_attend_backward.register_fake
def _(grad_output, query, key, value, key_mask, output, log_sum, table, *numbers):
    d_table = table.new_empty(table.shape if numbers[-1] else 0)
    return *(like_rows(states) for states in (query, key, value)), d_table


def relative_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    position_bias: RelativeBias | torch.Tensor | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """The kernel in transformers' form; what it has no words for goes to sdpa: other devices, dropout, a dense bias.

    Args:
        query: (B, H, Q, d); key, value: (B, G, K, d).
        attention_mask: (B, K), 1 where a key is seen.

    Raises:
        ValueError: for causal attention, and where weights are asked for.
    """
    if getattr(module, "is_causal", False) if is_causal is None else is_causal:
        raise ValueError(
            'The attention kernel "relative" hides padding and not the future: causal attention needs "eager", "sdpa" '
            'or "flex_attention".'
        )
    if kwargs.get("output_attentions"):
        raise ValueError(NO_WEIGHTS)
    there = query.is_cuda and HAS_TRITON and query.dtype != torch.float64
    if isinstance(position_bias, RelativeBias) and there and dropout == 0.0:
        key, value = expand_groups(query, key, value)
        output = relative_attention(query, key, value, position_bias, attention_mask, scaling)
        return output.transpose(1, 2), None
    if position_bias is not None:
        kwargs["position_bias"] = bias_for_kernel(position_bias, "sdpa", query)
    if attention_mask is not None:
        attention_mask = attention_mask.bool()[:, None, None, :].expand(-1, -1, query.shape[2], -1)
    kwargs |= dict(scaling=scaling, dropout=dropout, is_causal=False)
    return get_kernel("sdpa")(module, query, key, value, attention_mask, **kwargs)


AttentionInterface.register(NAME, relative_attention_forward)
AttentionMaskInterface.register(NAME, key_mask)
LOOKUP_KERNELS.add(NAME)
