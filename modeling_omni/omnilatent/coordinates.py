"""Where a token is: its time, row and column.

All modalities share one clock and one frame. Time counts audio tokens (25 a second by default), so that a sound and
the picture it goes with have the same time. Rows and columns count the patches of a default-sized image and are
relative to the frame, so that a still and a video of the same scene agree whatever their resolution. A text token
has its index on all three axes. `MultiAxisRotary` reads these numbers, and `CoordinateEmbedding` adds them.
"""

import torch
from einops import repeat
from torch import nn

from ...configuration import layout
from ...configuration.configuration_omnilatent import OmniLatentConfig
from ...configuration.modalities import AUDIO, IMAGE

AXES = 3


def token_coordinates(
    config: OmniLatentConfig,
    name: str,
    size: tuple[int, ...],
    grid_mask: torch.Tensor | None = None,
    start: float = 0.0,
    device=None,
) -> torch.Tensor:
    """Centre (time, row, column) of every token of a modality of this size; (B or 1, tokens, 3), float32.

    Args:
        size: audio (frames,), image (height, width), video (frames, height, width).
        grid_mask: (B, tokens), True where a token is real. The frame is what is real of the picture: padding does
            not move anything.
        start: seconds at which the first frame is; a still picture has no time.
    """
    grid = layout.token_grid(config, name, size)
    tokens_per_second = config.sampling_rate / config.hop_length / layout.AUDIO_STRIDE
    if name == AUDIO:
        time = torch.arange(grid[0], device=device) + 0.5 + start * tokens_per_second
        return torch.stack([time, torch.zeros_like(time), torch.zeros_like(time)], dim=-1).unsqueeze(0)
    frames, rows, columns = grid if len(grid) == AXES else (1, *grid)
    if grid_mask is None:
        grid_mask = torch.ones(1, frames * rows * columns, dtype=torch.bool, device=device)
    real = grid_mask.unflatten(1, (frames, rows, columns))
    side = config.image_size / config.image_patch_size
    seconds = start + (torch.arange(frames, device=real.device) + 0.5) * config.video_tubelet_size / config.video_fps
    place = {
        "f": (seconds * tokens_per_second * (name != IMAGE)).expand(len(real), -1),
        "r": (torch.arange(rows, device=real.device) + 0.5)
        * side
        / real.any(3).any(1).sum(1, keepdim=True).clamp(min=1),
        "c": (torch.arange(columns, device=real.device) + 0.5)
        * side
        / real.any(2).any(1).sum(1, keepdim=True).clamp(min=1),
    }
    axes = [repeat(place[axis], f"b {axis} -> b (f r c)", f=frames, r=rows, c=columns) for axis in place]
    return torch.stack(axes, dim=-1)


class CoordinateEmbedding(nn.Module):
    """An embedding of (time, row, column): sines and cosines of each, projected.

    Rotary positions are relative; a slot that must paint the upper left corner also has to know where it is.
    """

    def __init__(self, hidden_size: int, frequencies: int = 16):
        super().__init__()
        self.frequencies = frequencies
        self.projection = nn.Linear(2 * AXES * frequencies, hidden_size, bias=False)

    def forward(self, coordinates: torch.Tensor) -> torch.Tensor:
        """(..., 3) -> (..., hidden_size)."""
        # periods from 2 to 2048 tokens
        exponents = torch.linspace(0, 10, self.frequencies, device=coordinates.device)
        angles = coordinates.float().unsqueeze(-1) * (torch.pi * 2.0**-exponents)
        features = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)
        return self.projection(features.to(self.projection.weight.dtype))
