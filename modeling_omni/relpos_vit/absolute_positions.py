"""Learned positions that are added to patches."""

from collections.abc import Sequence

import torch
from torch import nn

from ..layers.spline import cubic_spline_weights, resample_axes


class AbsolutePositions(nn.Module):
    """A learned vector for each place of a grid, resampled by natural cubic splines for grids of other sizes.

    Args:
        grid_size: places along each axis.
        class_token: whether a vector for a token before the patches comes first.
    """

    def __init__(self, grid_size: Sequence[int], hidden_size: int, class_token: bool = False):
        super().__init__()
        self.grid_size = tuple(grid_size)
        self.class_token = class_token
        places = torch.Size(self.grid_size).numel()
        self.weight = nn.Parameter(torch.zeros(class_token + places, hidden_size))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, grid_size: Sequence[int] | None = None, sizes: torch.Tensor | None = None) -> torch.Tensor:
        """The vectors (1 or B, N, D) for a grid.

        Args:
            grid_size: places along each axis. `None`: those that were learned.
            sizes: long (B, axes), where samples of different sizes share the grid: the size of each, which lies at the
                grid's beginning. What lies beyond it gets 0.
        """
        grid_size = self.grid_size if grid_size is None else tuple(grid_size)
        if grid_size == self.grid_size and sizes is None:
            return self.weight.unsqueeze(0)
        lengths = zip(self.grid_size, grid_size, (None,) * len(grid_size) if sizes is None else sizes.unbind(dim=1))
        weights = [_place_weights(*axis) for axis in lengths]
        of_class, places = self.weight[: self.class_token], self.weight[self.class_token :]
        places = resample_axes(places.unflatten(0, self.grid_size), weights).flatten(1, -2)
        return torch.cat([of_class.expand(places.shape[0], -1, -1), places], dim=1)

    @torch.no_grad()
    def resize(self, grid_size: Sequence[int]):
        """Learn vectors for another grid from now on, with the values that `forward` gives there."""
        weight = self(grid_size).squeeze(0)
        self.grid_size = tuple(grid_size)
        self.weight = nn.Parameter(weight.clone(), requires_grad=self.weight.requires_grad)


def _place_weights(own: int, length: int, sizes: torch.Tensor | None) -> torch.Tensor:
    """(B or 1, length, own), the ends of both at the same places; 0 beyond the size of a sample."""
    sizes = torch.tensor([length]) if sizes is None else sizes
    places = torch.arange(length, device=sizes.device)
    scale = (own - 1) / (sizes - 1).clamp(min=1).double()
    weights = cubic_spline_weights((places * scale[:, None]).clamp(0, own - 1), own)
    return weights * (places < sizes[:, None]).unsqueeze(-1)
