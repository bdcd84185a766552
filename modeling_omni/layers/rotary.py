"""Rotary positions over several axes."""

import torch
from torch import nn


class MultiAxisRotary(nn.Module):
    """Angles of rotary embeddings for tokens that have a place on several axes.

    RoPE (Su et al. 2021, section 3.2.2) turns pair i of a head by `position * theta^(-2i/d)`. Here pair i takes its
    position from axis `i mod axes`, so that every axis owns fast and slow pairs (Qwen2-VL gives each axis one
    contiguous band instead). A text token has its index on all axes, which is plain RoPE. Positions may be fractions:
    they are seconds and places in a picture, not only indices.

    The frequencies are computed at each call: a buffer would have to be restored by hand after `from_pretrained`.

    Args:
        head_dim: width of a head, even.
        theta: base of the frequencies.
    """

    def __init__(self, head_dim: int, theta: float = 10000.0):
        super().__init__()
        self.head_dim = head_dim
        self.theta = theta

    def forward(self, position_ids: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """From positions (axes, B, T) the cosines and sines, each (B, 1, T, head_dim), for `apply_rotary`."""
        pairs = torch.arange(self.head_dim // 2, device=position_ids.device)
        frequencies = self.theta ** (-2.0 * pairs.float() / self.head_dim)
        axis = pairs % position_ids.shape[0]
        angles = position_ids.float()[axis].permute(1, 2, 0) * frequencies  # (B, T, head_dim / 2)
        angles = torch.cat([angles, angles], dim=-1).unsqueeze(1)
        return angles.cos().to(dtype), angles.sin().to(dtype)


def apply_rotary(states: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Turn states (B, H, T, d); pair i is made of the features i and i + d/2, as in transformers' Llama."""
    cos, sin = rotary
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat([-second, first], dim=-1) * sin
