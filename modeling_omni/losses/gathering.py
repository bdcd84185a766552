"""Rows of all ranks, with gradients that find their way back."""

import torch
import torch.distributed as dist
from torch.autograd import Function
from torch.autograd.function import once_differentiable

# torch 2.14 renamed them and warns at the old names
all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def gather_rows(rows: torch.Tensor, group: dist.ProcessGroup | None) -> torch.Tensor:
    """The rows of all ranks, in the order of the ranks: (B, ...) -> (B * ranks, ...).

    Backward sums what every rank's loss asks of a row and hands it to the rank that brought the row. `None` stands for
    this process alone and returns `rows` itself. All ranks bring the same number of rows.
    """
    return rows if group is None else _GatherRows.apply(rows, group)


def rank_in(group: dist.ProcessGroup | None) -> int:
    return 0 if group is None else dist.get_rank(group)


def size_of(group: dist.ProcessGroup | None) -> int:
    return 1 if group is None else dist.get_world_size(group)


class _GatherRows(Function):
    # that of torch.distributed.nn makes lists of tensors and, on gloo, all ranks' gradients at once

    @staticmethod
    def forward(ctx, rows, group):
        ctx.group = group
        gathered = rows.new_empty(len(rows) * dist.get_world_size(group), *rows.shape[1:])
        all_gather(gathered, rows.contiguous(), group=group)
        return gathered

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        own = gradient.new_empty(len(gradient) // dist.get_world_size(ctx.group), *gradient.shape[1:])
        reduce_scatter(own, gradient.contiguous(), group=ctx.group)
        return own, None
