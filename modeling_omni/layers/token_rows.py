"""Moving the rows of a sequence that a mask marks, with static shapes.

Shapes: B batch, T tokens, N rows, D width.
"""

import torch


def take_rows(states: torch.Tensor, where: torch.Tensor, count: int) -> torch.Tensor:
    """The rows of `states` (B, T, D) where `where` (B, T) is True, in order, as (B, count, D), padded with 0."""
    order = torch.argsort((~where).to(torch.uint8), dim=1, stable=True)[:, :count]
    taken = states.gather(1, order.unsqueeze(-1).expand(-1, -1, states.shape[-1]))
    real = torch.arange(order.shape[1], device=where.device) < where.sum(dim=1, keepdim=True)
    taken = taken.masked_fill(~real.unsqueeze(-1), 0)  # what is left out may be anything, nan too
    return torch.nn.functional.pad(taken, (0, 0, 0, count - taken.shape[1]))


def place_rows(rows: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """The inverse: row j of `rows` (B, N, D) at the j-th True of `where` (B, T); 0 elsewhere. Returns (B, T, D)."""
    index = (where.long().cumsum(dim=1) - 1).clamp(0, rows.shape[1] - 1)
    placed = rows.gather(1, index.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))
    return placed.masked_fill(~where.unsqueeze(-1), 0)
