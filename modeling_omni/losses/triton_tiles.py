"""The arithmetic of one tile on CUDA: products of bf16 pieces by cuBLAS, everything else by Triton.

A float32 number is the sum of three bf16 numbers (8 significant bits each), so a float32 product is a sum of bf16
products; those of the smallest pieces are below its rounding and left out. On a GPU with tensor cores that is several
times as fast as float32 arithmetic and as exact (Henry et al. 2019, "Leveraging the bfloat16 artificial intelligence
datatype for higher-precision computations").

p = pieces, r = rows of a tile, c = its columns, D = embedding size.
"""

import torch
import triton
import triton.language as tl

from .pairing import Pairing

BLOCK_ROWS, BLOCK_COLUMNS = 64, 128
WARPS = 8


class TritonTiles:
    """`TorchTiles` in float32 on CUDA; its docstrings say what each method returns.

    Args:
        pieces: bf16 pieces of each number in a product: 3 for float32's precision, 1 for bf16's.
    """

    shape = (4096, 8192)  # 128 MiB of cosines

    def __init__(self, pieces: int):
        self.pieces = pieces

    def operand(self, rows: torch.Tensor) -> torch.Tensor:
        """(r, D) -> (r, p * D), the largest piece first."""
        parts = []
        for _ in range(self.pieces):
            parts.append(rows.to(torch.bfloat16))
            rows = rows - parts[-1].float()
        return _side_by_side(parts)

    def cosines(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        # one product over a longer inner dimension writes the tile once; the smallest terms are summed first
        rows, columns = rows.chunk(self.pieces, dim=1), columns.chunk(self.pieces, dim=1)
        terms = [(i, total - i) for total in reversed(range(self.pieces)) for i in range(total + 1)]
        left, right = _side_by_side([rows[i] for i, _ in terms]), _side_by_side([columns[j] for _, j in terms])
        return product(left, right.T)

    def multiply(self, gradient: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        """(p, r, c) gradient times (c, p * D) operand."""
        size = embeddings.shape[1] // self.pieces
        total = 0.0
        for i in reversed(range(self.pieces)):
            width = self.pieces - i
            terms = product(gradient[i], embeddings[:, : width * size])
            for j in reversed(range(width)):
                total = total + terms[:, j * size : (j + 1) * size]
        return total

    def add_logits(self, cosines, scale, pairing, row, column):
        rows, columns = cosines.shape
        grid = _grid(rows, columns)
        # of each row by block of columns, and of each column by block of rows: top, total, positive
        of_rows, of_columns = cosines.new_empty(grid[0], 3, rows), cosines.new_empty(grid[1], 3, columns)
        _log_sum_exp[grid](
            *(cosines, scale, *_vectors(pairing), of_rows, of_columns, rows, columns, BLOCK_ROWS, BLOCK_COLUMNS),
            num_warps=WARPS,
        )
        for known, parts in ((row, of_rows), (column, of_columns)):
            blocks, _, length = parts.shape
            _join[(triton.cdiv(length, BLOCK_COLUMNS),)](*known, parts, blocks, length, BLOCK_COLUMNS)

    def info_nce_gradient(self, cosines, scale, pairing, row, column):
        rows, columns = cosines.shape
        grid = _grid(rows, columns)
        gradient, sums = self._new_gradient(cosines, grid)
        _info_nce_gradient[grid](
            *(cosines, scale, *_vectors(pairing), *row, *column, gradient, sums),
            *(rows, columns, self.pieces, BLOCK_ROWS, BLOCK_COLUMNS),
            num_warps=WARPS,
        )
        return gradient, sums.flatten(1).sum(1)

    def sigmoid_sum(self, cosines, scale, bias, pairing):
        rows, columns = cosines.shape
        grid = _grid(rows, columns)
        sums = cosines.new_empty(grid)
        _sigmoid_sum[grid](
            *(cosines, scale, bias, *_vectors(pairing), sums, rows, columns, BLOCK_ROWS, BLOCK_COLUMNS),
            num_warps=WARPS,
        )
        return sums.sum()

    def sigmoid_gradient(self, cosines, scale, bias, pairing):
        rows, columns = cosines.shape
        grid = _grid(rows, columns)
        gradient, sums = self._new_gradient(cosines, grid)
        _sigmoid_gradient[grid](
            *(cosines, scale, bias, *_vectors(pairing), gradient, sums),
            *(rows, columns, self.pieces, BLOCK_ROWS, BLOCK_COLUMNS),
            num_warps=WARPS,
        )
        return gradient, sums.flatten(1).sum(1)

    def _new_gradient(self, cosines, grid):
        return cosines.new_empty(self.pieces, *cosines.shape, dtype=torch.bfloat16), cosines.new_empty(2, *grid)


def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """bf16 times bf16, summed and returned in float32."""
    return torch.mm(left, right, out_dtype=torch.float32)


def _side_by_side(parts):
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _grid(rows, columns):
    # columns first: programs that run side by side read memory side by side
    return triton.cdiv(columns, BLOCK_COLUMNS), triton.cdiv(rows, BLOCK_ROWS)


def _vectors(pairing: Pairing):
    *numbers, row_present, column_present = pairing.tensors()
    return *numbers, row_present.view(torch.uint8), column_present.view(torch.uint8)


# --- kernels; one program reads one block of the tile, and what it sums it writes to a place of its own ---------------


@triton.jit
def _place(rows, columns, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr):
    """Indices of the block's rows (r, 1) and columns (1, c), and which lie inside the tile."""
    row = (tl.program_id(1) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS))[:, None]
    column = (tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS))[None, :]
    return row, column, row < rows, column < columns


@triton.jit
def _masks(row, column, in_rows, in_columns, row_keys, column_keys, row_ids, column_ids, row_present, column_present):
    """Which pairs are positive and which count, as `Pairing.masks`; none outside the tile."""
    row_here = tl.load(row_present + row, mask=in_rows, other=0) != 0
    column_here = tl.load(column_present + column, mask=in_columns, other=0) != 0
    here = row_here & column_here
    row_key, column_key = tl.load(row_keys + row, mask=in_rows), tl.load(column_keys + column, mask=in_columns)
    row_id, column_id = tl.load(row_ids + row, mask=in_rows), tl.load(column_ids + column, mask=in_columns)
    positive = here & (row_key == column_key)
    return positive, positive | (here & (row_id != column_id))


@triton.jit
def _store_sums(logits, positive, counted, out, place, stride, inside, axis: tl.constexpr):
    """Largest logit, sum of exp(logit - largest) and sum of the positive logits along an axis."""
    tl.store(out + 2 * stride + place, tl.sum(tl.where(positive, logits, 0.0), axis=axis, keep_dims=True), mask=inside)
    logits = tl.where(counted, logits, float("-inf"))
    top = tl.max(logits, axis=axis, keep_dims=True)
    total = tl.sum(tl.exp(logits - _finite(top)), axis=axis, keep_dims=True)
    tl.store(out + place, top, mask=inside)
    tl.store(out + stride + place, total, mask=inside)


@triton.jit
def _finite(top):
    return tl.where(top == float("-inf"), 0.0, top)


@triton.jit
def _log1p(x):
    """log(1 + x) for x in [0, 1], by the series of 2 artanh(x / (2 + x)): log itself would lose small x."""
    w = x / (2.0 + x)
    square = w * w
    series = 1.0 / 13 + square * (1.0 / 15)
    series = 1.0 / 9 + square * (1.0 / 11 + square * series)
    series = 1.0 / 5 + square * (1.0 / 7 + square * series)
    return 2.0 * w * (1.0 + square * (1.0 / 3 + square * series))


@triton.jit
def _store_gradient(gradient, cosine, out, sums, row, column, inside, rows, columns, PIECES: tl.constexpr):
    """Write the pieces of a block's gradient, and its two sums."""
    block = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    tl.store(sums + block, tl.sum(gradient * cosine))
    tl.store(sums + tl.num_programs(0) * tl.num_programs(1) + block, tl.sum(gradient))
    for piece in tl.static_range(PIECES):
        part = gradient.to(tl.bfloat16)
        tl.store(out + piece * rows * columns + row * columns + column, part, mask=inside)
        gradient -= part.to(tl.float32)


@triton.jit
def _log_sum_exp(
    cosines, scale, row_keys, column_keys, row_ids, column_ids, row_present, column_present, of_rows, of_columns,
    rows, columns, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    row, column, in_rows, in_columns = _place(rows, columns, BLOCK_ROWS, BLOCK_COLUMNS)
    positive, counted = _masks(
        row, column, in_rows, in_columns, row_keys, column_keys, row_ids, column_ids, row_present, column_present
    )
    cosine = tl.load(cosines + row * columns + column, mask=in_rows & in_columns, other=0.0)
    logits = cosine * tl.load(scale)
    of_rows += tl.program_id(0) * 3 * rows
    of_columns += tl.program_id(1) * 3 * columns
    _store_sums(logits, positive, counted, of_rows, row, rows, in_rows, 1)
    _store_sums(logits, positive, counted, of_columns, column, columns, in_columns, 0)


@triton.jit
def _join(tops, totals, positives, parts, blocks, length, BLOCK: tl.constexpr):
    """Add the blocks' sums to what is known of each row or column, one block after the other."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = place < length
    top = tl.load(tops + place, mask=inside, other=0.0)
    total = tl.load(totals + place, mask=inside, other=0.0)
    positive = tl.load(positives + place, mask=inside, other=0.0)
    for block in range(blocks):
        part = parts + block * 3 * length + place
        block_top = tl.load(part, mask=inside, other=0.0)
        highest = tl.maximum(top, block_top)
        total *= tl.exp(top - _finite(highest))
        total += tl.load(part + length, mask=inside, other=0.0) * tl.exp(block_top - _finite(highest))
        positive += tl.load(part + 2 * length, mask=inside, other=0.0)
        top = highest
    tl.store(tops + place, top, mask=inside)
    tl.store(totals + place, total, mask=inside)
    tl.store(positives + place, positive, mask=inside)


@triton.jit
def _info_nce_gradient(
    cosines, scale, row_keys, column_keys, row_ids, column_ids, row_present, column_present,
    row_top, row_factor, row_positive, column_top, column_factor, column_positive, out, sums,
    rows, columns, PIECES: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    row, column, in_rows, in_columns = _place(rows, columns, BLOCK_ROWS, BLOCK_COLUMNS)
    positive, counted = _masks(
        row, column, in_rows, in_columns, row_keys, column_keys, row_ids, column_ids, row_present, column_present
    )
    cosine = tl.load(cosines + row * columns + column, mask=in_rows & in_columns, other=0.0)
    logits = cosine * tl.load(scale)
    gradient = tl.load(row_factor + row, mask=in_rows) * tl.exp(logits - tl.load(row_top + row, mask=in_rows))
    gradient += tl.load(column_factor + column, mask=in_columns) * tl.exp(
        logits - tl.load(column_top + column, mask=in_columns)
    )
    weight = tl.load(row_positive + row, mask=in_rows) + tl.load(column_positive + column, mask=in_columns)
    gradient = tl.where(counted, gradient - tl.where(positive, weight, 0.0), 0.0)
    _store_gradient(gradient, cosine, out, sums, row, column, in_rows & in_columns, rows, columns, PIECES)


@triton.jit
def _sigmoid_sum(
    cosines, scale, bias, row_keys, column_keys, row_ids, column_ids, row_present, column_present, sums,
    rows, columns, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    row, column, in_rows, in_columns = _place(rows, columns, BLOCK_ROWS, BLOCK_COLUMNS)
    positive, counted = _masks(
        row, column, in_rows, in_columns, row_keys, column_keys, row_ids, column_ids, row_present, column_present
    )
    cosine = tl.load(cosines + row * columns + column, mask=in_rows & in_columns, other=0.0)
    logits = cosine * tl.load(scale) + tl.load(bias)
    wrong = tl.where(positive, -logits, logits)
    loss = tl.where(wrong > 0, wrong, 0.0) + _log1p(tl.exp(-tl.abs(wrong)))
    block = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    tl.store(sums + block, tl.sum(tl.where(counted, loss, 0.0)))


@triton.jit
def _sigmoid_gradient(
    cosines, scale, bias, row_keys, column_keys, row_ids, column_ids, row_present, column_present, out, sums,
    rows, columns, PIECES: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    row, column, in_rows, in_columns = _place(rows, columns, BLOCK_ROWS, BLOCK_COLUMNS)
    positive, counted = _masks(
        row, column, in_rows, in_columns, row_keys, column_keys, row_ids, column_ids, row_present, column_present
    )
    cosine = tl.load(cosines + row * columns + column, mask=in_rows & in_columns, other=0.0)
    logits = cosine * tl.load(scale) + tl.load(bias)
    wrong = tl.where(positive, -logits, logits)
    small = tl.exp(-tl.abs(wrong))
    gradient = tl.where(wrong > 0, 1.0, small) / (1.0 + small)
    gradient = tl.where(counted, tl.where(positive, -gradient, gradient), 0.0)
    _store_gradient(gradient, cosine, out, sums, row, column, in_rows & in_columns, rows, columns, PIECES)
