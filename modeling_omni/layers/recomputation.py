"""Functions whose inner states are not kept for backward but computed again."""

from collections.abc import Callable

import torch
from torch.autograd.function import once_differentiable


def recomputed(function: Callable, tensors: tuple[torch.Tensor, ...], *rest):
    """`function(*tensors, *rest)`, which keeps only `tensors` for backward.

    A leaner `torch.utils.checkpoint` for a piece of a kernel that is called many times: no random numbers, no hooks.
    The function has no parameters of its own. A compiled graph decides itself what to keep.
    """
    keeps = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    if torch.compiler.is_compiling() or not keeps:
        return function(*tensors, *rest)
    return _Recomputed.apply(function, rest, *tensors)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, function, rest, *tensors):
        ctx.function, ctx.rest = function, rest
        ctx.save_for_backward(*tensors)
        return function(*tensors, *rest)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        needed = ctx.needs_input_grad[2:]
        tensors = [tensor.detach().requires_grad_(need) for tensor, need in zip(ctx.saved_tensors, needed)]
        with torch.enable_grad(), torch.autocast(tensors[0].device.type, enabled=False):
            outputs = ctx.function(*tensors, *ctx.rest)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        outputs, gradients = zip(*(pair for pair in zip(outputs, gradients) if pair[0].requires_grad))
        wanted = [tensor for tensor in tensors if tensor.requires_grad]
        found = iter(torch.autograd.grad(outputs, wanted, gradients, allow_unused=True))
        return None, None, *(next(found) if need else None for need in needed)
