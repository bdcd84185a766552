"""Relative position bias: a learned number for each offset between two tokens and each head, added to the scores.

Shapes: B batch, H heads, Q queries, K keys, P entries of a table.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from .relative_position import CLASS_ENTRIES, check_axes, get_relative_position_index, num_relative_positions
from .spline import cubic_spline_weights, resample_axes
from .symbolic_lengths import is_symbolic

# Names of the attention kernels that take a `RelativeBias` and look each score's entry up; all others get it dense.
LOOKUP_KERNELS: set[str] = set()


@dataclass
class RelativeBias:
    """A bias as a kernel can look it up: the table, and the grids that tell which entry a pair of tokens reads.

    Query (i1, i2, ...) and key (j1, j2, ...) read entry `sum over axes of (i - j + k - 1) * stride`, with k the keys of
    an axis and the strides of a row-major grid of q + k - 1 offsets along each axis; `get_relative_position_index`
    writes it out.

    Args:
        table: (P, H), or (B, P, H) where each sample has its own.
        query_size, key_size: tokens along each axis of the grids.
        class_token: a token without a place stands before the queries and before the keys. Its entries are the last
            three of the table: class to patch, patch to class, class to class.
    """

    table: torch.Tensor
    query_size: tuple[int, ...]
    key_size: tuple[int, ...]
    class_token: bool = False

    @property
    def index(self) -> torch.Tensor:
        """Long (Q, K), the entry of each pair, on the table's device."""
        index = get_relative_position_index(self.query_size, self.key_size, self.class_token)
        return index.to(self.table.device)

    def dense(self) -> torch.Tensor:
        """The bias of each pair of tokens, (1 or B, H, Q, K).

        Equal to `table[index]`. Along an axis, row i of the bias is a piece of the table that moves on with i; so
        sliding windows replace the index, and the gradient sums in a fixed order.
        """
        table = self.table if self.table.ndim == 3 else self.table.unsqueeze(0)
        table = table.transpose(1, 2)  # (B, H, P)
        lengths = [queries + keys - 1 for queries, keys in zip(self.query_size, self.key_size)]
        if len(lengths) == 1 and is_symbolic(self.key_size[0]):  # windows of such a length are not traced
            queries, keys = (torch.arange(size, device=table.device) for size in self.query_size + self.key_size)
            bias = table[..., queries[:, None] - keys + self.key_size[0] - 1]
        else:
            bias = table[..., : math.prod(lengths)].unflatten(-1, lengths)
            for axis, keys in enumerate(self.key_size):
                bias = bias.unfold(2 + axis, keys, 1)  # q + k - 1 offsets -> q queries, and k keys as a new last axis
            bias = bias.flip(tuple(range(-len(self.key_size), 0)))  # a later key is at a smaller offset
            bias = bias.reshape(*table.shape[:2], math.prod(self.query_size), math.prod(self.key_size))
        if not self.class_token:
            return bias
        class_to_patch, patch_to_class, class_to_class = table[..., -CLASS_ENTRIES:].unbind(-1)
        column = patch_to_class[..., None, None].expand(-1, -1, bias.shape[2], 1)
        row = class_to_patch[..., None, None].expand(-1, -1, 1, bias.shape[3])
        row = torch.cat([class_to_class[..., None, None], row], dim=3)
        return torch.cat([row, torch.cat([column, bias], dim=3)], dim=2)


def bias_for_kernel(
    position_bias: torch.Tensor | RelativeBias, kernel_name: str, query: torch.Tensor
) -> torch.Tensor | RelativeBias:
    """The bias in the form that a kernel takes.

    Args:
        position_bias: a `RelativeBias`, or a tensor (B or 1, H, Q, K).
        query: (B, H, Q, d), whose type a dense bias gets.
    """
    if isinstance(position_bias, RelativeBias):
        if kernel_name in LOOKUP_KERNELS:
            return position_bias
        position_bias = position_bias.dense()
    position_bias = position_bias.to(query.dtype)  # sdpa's mask has the queries' type
    if kernel_name == "flex_attention":  # which reads position_bias[b] whatever the number of samples in it
        position_bias = position_bias.expand(query.shape[0], -1, -1, -1)
    return position_bias


class RelativePositionTable(nn.Module):
    """The learned table of a relative position bias, for grids of any size.

    The table is made for one size of the grids. For another it is resampled by natural cubic splines, axis by axis:
    offset 0 and the largest offsets keep their values and those between are spread evenly, so that an offset keeps its
    meaning as a share of the picture. At the table's own size every value is the table's.

    Args:
        num_heads: H.
        query_size: tokens along each axis of the queries' grid.
        key_size: the same of the keys. `None`: `query_size`.
        class_token: see [`RelativeBias`].
        init_std: standard deviation of the table at the start.

    Raises:
        ValueError: for sizes below 1.
    """

    def __init__(
        self,
        num_heads: int,
        query_size: Sequence[int],
        key_size: Sequence[int] | None = None,
        class_token: bool = False,
        init_std: float = 0.02,
    ):
        super().__init__()
        if num_heads < 1 or not init_std >= 0:
            raise ValueError(
                f"`num_heads` must be at least 1 and `init_std` not negative, got {num_heads} and {init_std}."
            )
        self.num_heads = num_heads
        check_axes("query_size", query_size, len(query_size))
        self.query_size = tuple(query_size)
        self.key_size = self.query_size if key_size is None else tuple(key_size)
        check_axes("key_size", self.key_size, len(query_size))
        self.class_token = class_token
        self.init_std = init_std
        self.num_relative_positions = num_relative_positions(self.query_size, self.key_size, class_token)
        self.relative_position_bias_table = nn.Parameter(torch.empty(self.num_relative_positions, num_heads))
        nn.init.normal_(self.relative_position_bias_table, std=init_std)

    def bias(
        self,
        query_size: Sequence[int] | None = None,
        key_size: Sequence[int] | None = None,
        sizes: torch.Tensor | None = None,
        weights: list[torch.Tensor] | None = None,
    ) -> RelativeBias:
        """The bias between the tokens of two grids.

        Args:
            query_size, key_size: of these grids. `None`: those of the table; `key_size` follows a given `query_size`.
            sizes: long (B, axes), where samples of different sizes share a padded grid: the size of each, which lies at
                the grid's beginning. Each then gets the bias it has alone.
            weights: what `resampling` says of these sizes, where several tables share it. `None`: ask it.

        Raises:
            ValueError: for a different number of axes.
        """
        query_size, key_size = self._sizes(query_size, key_size)
        weights = self.resampling(query_size, key_size, sizes) if weights is None else weights
        table = self.relative_position_bias_table
        if weights is None:
            return RelativeBias(table, query_size, key_size, self.class_token)
        of_class = table[:0]
        if self.class_token:
            table, of_class = table[:-CLASS_ENTRIES], table[-CLASS_ENTRIES:]
        lengths = [queries + keys - 1 for queries, keys in zip(self.query_size, self.key_size)]
        table = resample_axes(table.unflatten(0, lengths), weights).flatten(1, -2)
        table = torch.cat([table, of_class.expand(len(table), -1, -1)], dim=1)
        return RelativeBias(table if sizes is not None else table.squeeze(0), query_size, key_size, self.class_token)

    def resampling(
        self,
        query_size: Sequence[int] | None = None,
        key_size: Sequence[int] | None = None,
        sizes: torch.Tensor | None = None,
    ) -> list[torch.Tensor] | None:
        """For each axis (B or 1, offsets, offsets of the table), or `None` at the table's own size."""
        query_size, key_size = self._sizes(query_size, key_size)
        if sizes is None:
            if query_size == self.query_size and key_size == self.key_size:
                return None
            lengths = zip(self.query_size, self.key_size, query_size, key_size)
            device = self.relative_position_bias_table.device
            return [_offset_weights(*axis).to(device) for axis in lengths]
        if query_size != key_size or self.query_size != self.key_size:
            raise ValueError("Samples of different sizes in one batch need queries and keys on one grid.")
        lengths = zip(self.query_size, query_size, sizes.unbind(dim=1))
        return [_padded_offset_weights(*axis) for axis in lengths]

    @torch.no_grad()
    def resize(self, query_size: Sequence[int], key_size: Sequence[int] | None = None):
        """Make the table one for other grids, with the values that `bias` gives there. It is a new parameter then."""
        bias = self.bias(query_size, key_size)
        self.query_size, self.key_size = bias.query_size, bias.key_size
        trained = self.relative_position_bias_table.requires_grad
        self.relative_position_bias_table = nn.Parameter(bias.table.clone(), requires_grad=trained)
        self.num_relative_positions = len(bias.table)

    def _sizes(self, query_size, key_size):
        if query_size is None:
            return self.query_size, self.key_size
        query_size = tuple(query_size)
        key_size = query_size if key_size is None else tuple(key_size)
        if not len(query_size) == len(key_size) == len(self.query_size):
            raise ValueError(f"The table has {len(self.query_size)} axes, got grids {query_size} and {key_size}.")
        return query_size, key_size

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, query_size={self.query_size}, key_size={self.key_size}"


class RelativePositionBias(RelativePositionTable):
    """A learned bias for each offset between two tokens and each head (Liu et al. 2021, Swin Transformer, section 3.2).

    Args:
        num_heads: attention heads H.
        window_size: (height, width) in tokens for `"2d"`, (frames, height, width) for `"3d"`.
        seq_len: tokens for `"1d"`.
        bias_type: `"1d"`, `"2d"` or `"3d"`.
        init_std: standard deviation of the table at the start.
        key_size: sizes of the keys' grid, or their number for `"1d"`, where it differs from that of the queries.
        class_token: a class token stands before the tokens of the window; it gets three entries of its own at the end
            of the table.

    Attributes:
        num_relative_positions: entries P of the table, 2 N - 1 for N tokens in a row and
            (2 height - 1) (2 width - 1) for a window; 3 more with a class token.
        relative_position_bias_table: (P, H).
        relative_position_index: (Q, K), the entry that each pair of tokens reads.

    Raises:
        ValueError: for an unknown type, a size that is missing or belongs to another type.

    Example:

    ```python
    >>> from omnilatent import RelativePositionBias

    >>> rpb = RelativePositionBias(num_heads=8, window_size=(7, 7), bias_type="2d", init_std=0.02)
    >>> rpb().shape, rpb.num_relative_positions
    (torch.Size([8, 49, 49]), 169)
    ```
    """

    def __init__(
        self,
        num_heads: int,
        window_size: Sequence[int] | None = None,
        seq_len: int | None = None,
        bias_type: str = "2d",
        init_std: float = 0.02,
        key_size: Sequence[int] | int | None = None,
        class_token: bool = False,
    ):
        if bias_type not in BIAS_AXES:
            raise ValueError(f"There is no `bias_type` {bias_type!r}: choose one of {', '.join(BIAS_AXES)}.")
        wanted, given = ("seq_len", "window_size") if bias_type == "1d" else ("window_size", "seq_len")
        sizes = {"seq_len": seq_len, "window_size": window_size}
        if sizes[wanted] is None or sizes[given] is not None:
            raise ValueError(
                f"A bias of type {bias_type!r} needs `{wanted}` and no `{given}`, got {sizes[wanted]} and {sizes[given]}."
            )
        query_size = (seq_len,) if bias_type == "1d" else window_size
        key_size = (key_size,) if isinstance(key_size, int) else key_size
        check_axes(wanted, query_size, BIAS_AXES[bias_type])
        super().__init__(num_heads, query_size, key_size, class_token, init_std)
        self.bias_type = bias_type
        index = get_relative_position_index(self.query_size, self.key_size, class_token)
        self.register_buffer("relative_position_index", index, persistent=False)

    def resize(self, query_size: Sequence[int], key_size: Sequence[int] | None = None):
        super().resize(query_size, key_size)
        index = get_relative_position_index(self.query_size, self.key_size, self.class_token)
        self.relative_position_index = index.to(self.relative_position_bias_table.device)

    def forward(self) -> torch.Tensor:
        """The bias matrix (H, Q, K); with a class token both have one more row."""
        return self.bias().dense().squeeze(0)


# axes of each type of bias
BIAS_AXES = {"1d": 1, "2d": 2, "3d": 3}


def _offset_weights(queries: int, keys: int, new_queries: int, new_keys: int) -> torch.Tensor:
    """(1, new_queries + new_keys - 1, queries + keys - 1): where each new offset reads the old ones."""
    offsets = torch.arange(1 - new_keys, new_queries).double()
    ahead, behind = (queries - 1) / max(new_queries - 1, 1), (keys - 1) / max(new_keys - 1, 1)
    offsets = torch.where(offsets > 0, offsets * ahead, offsets * behind)
    points = (offsets + keys - 1).clamp(0, queries + keys - 2)  # a product may be off by its rounding
    return cubic_spline_weights(points, queries + keys - 1).unsqueeze(0)


def _padded_offset_weights(tokens: int, longest: int, sizes: torch.Tensor) -> torch.Tensor:
    """(B, 2 longest - 1, 2 tokens - 1): the same for samples with `sizes` (B,) tokens; 0 for offsets that they lack."""
    offsets = torch.arange(1 - longest, longest, device=sizes.device)
    scale = (tokens - 1) / (sizes - 1).clamp(min=1).double()
    points = (offsets * scale[:, None] + tokens - 1).clamp(0, 2 * tokens - 2)
    exists = offsets.abs() < sizes[:, None]
    return cubic_spline_weights(points, 2 * tokens - 1) * exists.unsqueeze(-1)


__all__ = ["LOOKUP_KERNELS", "RelativeBias", "RelativePositionBias", "RelativePositionTable", "bias_for_kernel"]
