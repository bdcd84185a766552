"""Which pairs of a contrast belong together, and which do not count."""

from dataclasses import dataclass, fields

import torch
import torch.distributed as dist

from .gathering import gather_rows, size_of

DUPLICATES = ("positive", "ignore")


@dataclass(frozen=True)
class Pairing:
    """What is known of each row and each column of a matrix of logits; whole or any tile of it.

    The matrix of pairs itself is made for a tile at a time: it is as large as the logits.

    Args:
        row_keys, column_keys: int64; equal ones make a positive pair.
        row_ids, column_ids: int64; equal ones that are no positive pair do not count.
        row_present, column_present: bool; False takes a row or column out of everything.
    """

    row_keys: torch.Tensor
    column_keys: torch.Tensor
    row_ids: torch.Tensor
    column_ids: torch.Tensor
    row_present: torch.Tensor
    column_present: torch.Tensor

    def narrow(self, rows: slice, columns: slice) -> "Pairing":
        return Pairing(*(getattr(self, f.name)[rows if f.name.startswith("row") else columns] for f in fields(self)))

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return tuple(getattr(self, f.name) for f in fields(self))

    def masks(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Which pairs are positive, and which count at all, bool (rows, columns) each."""
        present = self.row_present[:, None] & self.column_present
        positive = (self.row_keys[:, None] == self.column_keys) & present
        return positive, positive | ((self.row_ids[:, None] != self.column_ids) & present)

    def count_positives(self) -> tuple[torch.Tensor, torch.Tensor]:
        """How many positives each row and each column has, without the matrix of pairs."""
        rows, columns = (self.row_keys, self.row_present), (self.column_keys, self.column_present)
        return _count_equal(*rows, *columns), _count_equal(*columns, *rows)


def pair_up(
    first: torch.Tensor,
    second: torch.Tensor,
    ids: torch.Tensor | tuple[torch.Tensor, torch.Tensor] | None,
    present: torch.Tensor | tuple[torch.Tensor, torch.Tensor] | None,
    duplicates: str,
    group: dist.ProcessGroup | None,
) -> Pairing:
    """The pairing of all ranks' rows with all ranks' columns; see `info_nce_loss` for the arguments.

    Raises:
        ValueError: for what does not fit together.
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(
            "Contrast needs two (batch, size) tensors of one size, "
            f"got {tuple(first.shape)} and {tuple(second.shape)}."
        )
    if not len(first) or not len(second):
        raise ValueError(
            f"Contrast needs at least one row a side, got {tuple(first.shape)} and {tuple(second.shape)}."
        )
    if duplicates not in DUPLICATES:
        raise ValueError(f"`duplicates` is {duplicates!r}: expected one of {', '.join(map(repr, DUPLICATES))}.")
    if len(first) != len(second) and (ids is None or duplicates != "positive"):
        raise ValueError(
            f"The batches {tuple(first.shape)} and {tuple(second.shape)} have different lengths: only `ids` of both, "
            "with `duplicates='positive'`, can say which rows belong together."
        )
    sides = first, second
    places = tuple(torch.arange(len(side) * size_of(group), device=side.device) for side in sides)
    if ids is None:
        ids = places
    else:
        ids = tuple(gather_rows(vector.long(), group) for vector in _one_a_side("ids", ids, sides))
    if present is None:
        present = tuple(torch.ones_like(place, dtype=torch.bool) for place in places)
    else:
        # as bytes: not every backend gathers bool
        present = tuple(
            gather_rows(vector.to(torch.uint8), group).bool() for vector in _one_a_side("present", present, sides)
        )
    keys = ids if duplicates == "positive" else places
    return Pairing(*keys, *ids, *present)


def _one_a_side(name, vectors, sides):
    vectors = (vectors, vectors) if isinstance(vectors, torch.Tensor) else tuple(vectors)
    shapes, expected = [tuple(vector.shape) for vector in vectors], [(len(side),) for side in sides]
    if shapes != expected:
        raise ValueError(f"`{name}` has shape {shapes}, one a side: expected {expected}.")
    if any(vector.is_floating_point() for vector in vectors):
        raise ValueError(f"`{name}` has types {[vector.dtype for vector in vectors]}: expected integers or bool.")
    return [vector.to(side.device) for vector, side in zip(vectors, sides)]


def _count_equal(keys, present, others, others_present):
    """For each key the number of equal ones among the others, 0 for what is absent."""
    ordered, order = others.sort()
    before = torch.nn.functional.pad(others_present[order].long().cumsum(0), (1, 0))  # present among the first n
    low, high = torch.searchsorted(ordered, keys), torch.searchsorted(ordered, keys, right=True)
    return (before[high] - before[low]) * present
