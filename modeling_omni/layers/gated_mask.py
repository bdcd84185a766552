"""Masks in which some keys have learned gates, and attention under them.

Shapes: B batch, H heads, Q queries, K keys, N gated keys, which are the first ones, A gates, d head width.
"""

from dataclasses import dataclass

import torch
from torch import nn

from .kernels import expand_groups, get_kernel

cudnn_attention = torch.ops.aten._scaled_dot_product_cudnn_attention


@dataclass
class GatedMask:
    """An additive mask that raises the scores on some keys by learned log gates.

    Args:
        open: (B, H or 1, Q, K), the constant mask as it is with gates of 1.
        gated: (B, 1, Q, K), 1 where a gate stands between a query and a key.
        gate_of_key: (K, A), 1 at the gate of each key.
        log_gates: (A,).
        num_gated: N.
    """

    open: torch.Tensor
    gated: torch.Tensor
    gate_of_key: torch.Tensor
    log_gates: torch.Tensor
    num_gated: int

    def additive(self) -> torch.Tensor:
        """The mask with its gates, (B, H or 1, Q, K)."""
        return torch.addcmul(self.open, self.gated, self.gate_of_key @ self.log_gates.to(self.open.dtype))


def gated_attention(
    module: nn.Module,
    kernel_name: str,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: GatedMask,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What the kernel makes of query (B, H, Q, d), key and value (B, G, K, d) under a gated mask.

    Of all fused kernels only the memory-efficient one has gradients for a mask, and it is slower than cuDNN's by more
    than half. So where sdpa would take cuDNN's for a constant mask, it does, and the gradient of the few gates is
    worked out beside it. A compiled graph takes the mask with its gradients.
    """
    beside = mask.log_gates.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling()
    constant = kernel_name == "sdpa" and dropout == 0.0 and "position_bias" not in kwargs
    if not (beside and constant and has_cudnn_kernel(query, mask)):
        kernel = get_kernel(kernel_name)
        return kernel(module, query, key, value, mask.additive(), scaling=scaling, dropout=dropout, **kwargs)
    key, value = expand_groups(query, key, value)
    query, key, value = (states.to(mask.open.dtype) for states in (query, key, value))  # what autocast does in sdpa
    with torch.no_grad():
        bias = mask.additive()
    output, log_sum, *_ = cudnn_attention(query, key, value, bias, compute_log_sumexp=True, scale=scaling)
    key, value = key[:, :, : mask.num_gated], value[:, :, : mask.num_gated]
    gate_of_key = mask.gate_of_key[: mask.num_gated]
    output = _GateGradient.apply(
        output, mask.log_gates, query, key, value, bias, log_sum, mask.gated, gate_of_key, scaling
    )
    return output.transpose(1, 2), None


def has_cudnn_kernel(query: torch.Tensor, mask: GatedMask) -> bool:
    """Whether cuDNN's fused attention takes these shapes and types here."""
    return (
        query.is_cuda
        and mask.open.dtype in (torch.bfloat16, torch.float16)
        and query.shape[-1] % 8 == 0
        and query.shape[-1] <= 128
        and torch.cuda.get_device_properties(query.device).major >= 9
    )


class _GateGradient(torch.autograd.Function):
    """The output of attention, unchanged, with a gradient for the log gates."""

    @staticmethod
    def forward(ctx, output, log_gates, query, key, value, bias, log_sum, gated, gate_of_key, scaling):
        ctx.save_for_backward(output, query, key, value, bias, log_sum, gated, gate_of_key)
        ctx.scaling = scaling
        return output.view_as(output)

    @staticmethod
    def backward(ctx, grad_output):
        output, query, key, value, bias, log_sum, gated, gate_of_key = ctx.saved_tensors
        by_key = sum_score_gradients(query, key, value, output, grad_output, bias, gated, log_sum, ctx.scaling)
        return grad_output, by_key @ gate_of_key.float(), *[None] * 8


def sum_score_gradients(*args) -> torch.Tensor:
    from . import gate_kernel  # Triton may be missing where there is no GPU

    return gate_kernel.sum_score_gradients(*args)
