"""Contrastive losses whose memory is linear in the batch.

Forward walks over tiles of the matrix of cosines and keeps a log-sum-exp per row and per column (InfoNCE) or a sum
(sigmoid). Backward makes each tile again, turns it into the gradient of its logits and multiplies that with the
embeddings of either side: four matrix products in all. A kernel that fused products and exponentials could not sum
over rows and over columns at once without atomic additions, whose order changes from run to run; walking over both in
turn, it would make six. Here every sum has one order, and the library makes the products.

What happens inside a tile is either `TorchTiles`, anywhere, or `TritonTiles`, on CUDA.

D = embedding size, N and M = rows and columns of the whole.
"""

from importlib.util import find_spec

import torch
import torch.distributed as dist
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .gathering import rank_in, size_of
from .pairing import Pairing
from .torch_tiles import LogSumExp, Side, TorchTiles

# the meaning that PyTorch gives these words, in bf16 pieces of a float32 number
PIECES = {"highest": 3, "high": 2, "medium": 1}


def choose_tiles(first: torch.Tensor, second: torch.Tensor):
    """Triton's tiles on a GPU with bf16 tensor cores, PyTorch's elsewhere and for float64."""
    widest = torch.promote_types(first.dtype, second.dtype)
    if not first.is_cuda or widest == torch.float64 or find_spec("triton") is None:
        return TorchTiles()
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        return TorchTiles()
    from .triton_tiles import TritonTiles  # takes a second to load

    autocast = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
    if torch.bfloat16 in (widest, autocast):
        return TritonTiles(pieces=1)
    return TritonTiles(PIECES[torch.get_float32_matmul_precision()])


def tiled_unit_rows(rows: torch.Tensor) -> torch.Tensor:
    """`F.normalize` in float32 at least, whose backward needs nothing but the unit rows, which the loss holds anyway."""
    return _UnitRows.apply(rows)


@torch.compiler.disable  # a compiler would unroll the loop over tiles
def tiled_info_nce(rows, columns, scale, pairing: Pairing, tiles, group: dist.ProcessGroup | None) -> torch.Tensor:
    """InfoNCE of this rank's unit rows against all ranks' unit columns; the loss of the whole batch.

    Args:
        rows, columns: (N / ranks, D) and (M, D).
        scale: ().
        pairing: of the whole batch, (N, M).
    """
    return _TiledInfoNCE.apply(rows, columns, scale, pairing, tiles, group)


@torch.compiler.disable
def tiled_sigmoid(rows, columns, scale, bias, pairing: Pairing, tiles, group) -> torch.Tensor:
    """The sigmoid loss in the same way; `bias` is ()."""
    return _TiledSigmoid.apply(rows, columns, scale, bias, pairing, tiles, group)


class _UnitRows(Function):
    @staticmethod
    def forward(ctx, rows):
        ctx.dtype, dtype = rows.dtype, torch.promote_types(rows.dtype, torch.float32)
        length = torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=dtype).clamp(min=1e-12)
        units = rows / length
        ctx.save_for_backward(units, length)
        return units

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        units, length = ctx.saved_tensors
        along = (gradient * units).sum(dim=1, keepdim=True)
        return torch.addcmul(gradient, units, along, value=-1).div_(length).to(ctx.dtype)


class _TiledInfoNCE(Function):
    @staticmethod
    def forward(ctx, rows, columns, scale, pairing, tiles, group):
        own = _own_rows(rows, group)
        row_count, column_count = pairing.count_positives()
        row_weight = _weights(row_count, pairing.row_present, rows.dtype)[own]
        column_weight = _weights(column_count, pairing.column_present, rows.dtype)
        row_count, pairing = row_count[own], pairing.narrow(own, slice(None))
        row, column = LogSumExp.empty(rows), LogSumExp.empty(columns)

        def visit(r, c, cosines, *_):
            tiles.add_logits(cosines, scale, pairing.narrow(r, c), row.narrow(r), column.narrow(c))

        _visit_tiles(visit, rows, columns, tiles)
        column = column.join_ranks(group)
        loss = _sum_of_ranks(row.cross_entropy(row_weight, row_count), group)
        loss = loss + column.cross_entropy(column_weight, column_count)

        row = Side(row.top, row_weight / row.total, row_weight / row_count.clamp(min=1))
        column = Side(column.top, column_weight / column.total, column_weight / column_count.clamp(min=1))
        ctx.sides = row, column
        ctx.save_for_backward(rows, columns, scale)
        ctx.pairing, ctx.tiles, ctx.group = pairing, tiles, group
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, d_loss):
        rows, columns, scale = ctx.saved_tensors
        row, column = ctx.sides

        def gradient(r, c, cosines):
            return ctx.tiles.info_nce_gradient(
                cosines, scale, ctx.pairing.narrow(r, c), row.narrow(r), column.narrow(c)
            )

        # the ranks' gradients are averaged afterwards, and each holds its share of the sum
        gradients = _gradients(ctx, gradient, rows, columns, scale, d_loss * size_of(ctx.group))
        return *gradients[:3], None, None, None


class _TiledSigmoid(Function):
    @staticmethod
    def forward(ctx, rows, columns, scale, bias, pairing, tiles, group):
        weight = 1 / pairing.row_present.sum().clamp(min=1).to(rows.dtype)
        pairing = pairing.narrow(_own_rows(rows, group), slice(None))
        sums = []

        def visit(r, c, cosines, *_):
            sums.append(tiles.sigmoid_sum(cosines, scale, bias, pairing.narrow(r, c)))

        _visit_tiles(visit, rows, columns, tiles)
        ctx.save_for_backward(rows, columns, scale, bias, weight)
        ctx.pairing, ctx.tiles, ctx.group = pairing, tiles, group
        return weight * _sum_of_ranks(torch.stack(sums).sum(), group)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_loss):
        rows, columns, scale, bias, weight = ctx.saved_tensors

        def gradient(r, c, cosines):
            return ctx.tiles.sigmoid_gradient(cosines, scale, bias, ctx.pairing.narrow(r, c))

        gradients = _gradients(ctx, gradient, rows, columns, scale, d_loss * weight * size_of(ctx.group))
        return *gradients, None, None, None


def _visit_tiles(visit, rows, columns, tiles) -> None:
    """Call `visit(r, c, cosines, row_operand, column_operand)` for every tile, where r and c are slices."""
    with torch.cuda.device_of(rows):  # Triton launches on the current device; on the CPU this does nothing
        for r in _slices(len(rows), tiles.shape[0]):
            row_operand = tiles.operand(rows[r])
            for c in _slices(len(columns), tiles.shape[1]):
                column_operand = tiles.operand(columns[c])
                visit(r, c, tiles.cosines(row_operand, column_operand), row_operand, column_operand)


def _gradients(ctx, gradient_of_tile, rows, columns, scale, factor):
    """Gradients of rows, columns, scale and bias from the gradient of each tile's logits."""
    needs_rows, needs_columns = ctx.needs_input_grad[:2]
    d_rows = torch.zeros_like(rows) if needs_rows else None
    d_columns = torch.zeros_like(columns) if needs_columns else None
    sums = []

    def visit(r, c, cosines, row_operand, column_operand):
        gradient, of_tile = gradient_of_tile(r, c, cosines)
        sums.append(of_tile)
        del cosines  # as large as the gradient
        if needs_rows:
            d_rows[r] += ctx.tiles.multiply(gradient, column_operand)
        if needs_columns:
            d_columns[c] += ctx.tiles.multiply(gradient.mT, row_operand)

    with torch.autocast(rows.device.type, enabled=False):
        _visit_tiles(visit, rows, columns, ctx.tiles)
        for gradient in (d_rows, d_columns):
            if gradient is not None:
                gradient *= factor * scale
        d_scale, d_bias = factor * torch.stack(sums).sum(0)
    return d_rows, d_columns, d_scale, d_bias


def _slices(length, step):
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def _own_rows(rows, group) -> slice:
    start = rank_in(group) * len(rows)
    return slice(start, start + len(rows))


def _weights(counts, present, dtype):
    """The weight of each row in a mean over the rows present and over both sides; 0 without a positive."""
    return (counts > 0).to(dtype) / (2 * present.sum().clamp(min=1))


def _sum_of_ranks(value, group):
    if group is not None:
        dist.all_reduce(value, group=group)
    return value
