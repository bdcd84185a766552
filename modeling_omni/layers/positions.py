"""Positions that are added to tokens.

Shapes: B batch, T tokens, D hidden size.
"""

import math

import torch
from torch import nn


class LearnedPositions(nn.Module):
    """A learned vector for each place (Gehring et al. 2017, section 3.1).

    Args:
        max_positions: places that there are.
        hidden_size: D.
    """

    def __init__(self, max_positions: int, hidden_size: int):
        super().__init__()
        self.max_positions = max_positions
        self.embedding = nn.Embedding(max_positions, hidden_size)

    def forward(self, hidden_states: torch.Tensor, position_ids: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            hidden_states: (B, T, D).
            position_ids: (B or 1, T), places from 0. `None`: 0, 1, ...

        Returns:
            The states with their places added, (B, T, D).

        Raises:
            ValueError: for more tokens than places.
        """
        length = hidden_states.shape[1]
        self.check_length(length)
        if position_ids is None:
            position_ids = torch.arange(length, device=hidden_states.device).unsqueeze(0)
        return hidden_states + self.embedding(position_ids)

    def check_length(self, length: int):
        """Raise a ValueError for more tokens than places; those before, in a cache, count."""
        if length > self.max_positions:
            raise ValueError(
                f"There are {self.max_positions} learned positions, got {length} tokens: set "
                "`max_position_embeddings` higher, or choose sinusoidal, rotary or relative positions."
            )


class SinusoidalPositions(nn.Module):
    """Sines and cosines of the place, for sequences of any length (Vaswani et al. 2017, section 3.5).

    Feature 2i is sin(p / theta^(2i/D)) and feature 2i + 1 the cosine. They are computed at each call, like the angles
    of `MultiAxisRotary`.

    Args:
        hidden_size: D, even.

    Raises:
        ValueError: for an odd width.
    """

    def __init__(self, hidden_size: int, theta: float = 10000.0):
        super().__init__()
        if hidden_size % 2 != 0:
            raise ValueError(f"Sines come with cosines: `hidden_size` must be even, got {hidden_size}.")
        self.hidden_size = hidden_size
        self.theta = theta

    def forward(self, hidden_states: torch.Tensor, position_ids: torch.Tensor | None = None) -> torch.Tensor:
        """The states (B, T, D) with their places added; `position_ids` (B or 1, T), `None`: 0, 1, ..."""
        if position_ids is None:
            position_ids = torch.arange(hidden_states.shape[1], device=hidden_states.device).unsqueeze(0)
        even = torch.arange(0, self.hidden_size, 2, device=hidden_states.device).float()
        angles = position_ids.unsqueeze(-1).float() * torch.exp(even * (-math.log(self.theta) / self.hidden_size))
        places = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)
        return hidden_states + places.to(hidden_states.dtype)

    def extra_repr(self) -> str:
        return f"{self.hidden_size}, theta={self.theta}"


__all__ = ["LearnedPositions", "SinusoidalPositions"]
