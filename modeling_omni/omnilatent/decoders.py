"""From hidden states at a target's slots to the modality's tensor.

Each decoder maps (B, tokens, hidden_size) of a whole grid, with `mask` (B, tokens) True where a token is real, and
the target's size to the tensor.
"""

import torch
from einops import rearrange
from torch import nn

from ...configuration import layout
from ...configuration.configuration_omnilatent import OmniLatentConfig
from ...configuration.modalities import AUDIO, IMAGE, VIDEO


class AudioDecoder(nn.Module):
    """Two transposed convolutions, the encoder's mirror: (B, tokens, hidden_size) -> (B, mels, F)."""

    def __init__(self, config: OmniLatentConfig):
        super().__init__()
        self.conv1 = nn.ConvTranspose1d(config.hidden_size, config.hidden_size, kernel_size=4, stride=2, padding=1)
        self.conv2 = nn.ConvTranspose1d(config.hidden_size, config.num_mel_bins, kernel_size=4, stride=2, padding=1)

    def forward(self, states: torch.Tensor, mask: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
        mask = mask.unsqueeze(1)
        states = nn.functional.gelu(self.conv1(states.transpose(1, 2) * mask))
        states = states * mask.repeat_interleave(2, dim=-1)
        return self.conv2(states)[..., : size[0]]


class ImageDecoder(nn.Module):
    """One patch from each token: (B, patches, hidden_size) -> (B, C, H, W)."""

    def __init__(self, config: OmniLatentConfig):
        super().__init__()
        self.config = config
        self.projection = nn.Linear(config.hidden_size, config.num_channels * config.image_patch_size**2)

    def forward(self, states: torch.Tensor, mask: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
        h, w = layout.token_grid(self.config, IMAGE, size)
        p = self.config.image_patch_size
        return rearrange(self.projection(states), "b (h w) (c p q) -> b c (h p) (w q)", h=h, w=w, p=p, q=p)


class VideoDecoder(nn.Module):
    """One tube from each token: (B, tubes, hidden_size) -> (B, N, C, H, W)."""

    def __init__(self, config: OmniLatentConfig):
        super().__init__()
        self.config = config
        self.projection = nn.Linear(
            config.hidden_size, config.num_channels * config.video_tubelet_size * config.video_patch_size**2
        )

    def forward(self, states: torch.Tensor, mask: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
        n, h, w = layout.token_grid(self.config, VIDEO, size)
        t, p = self.config.video_tubelet_size, self.config.video_patch_size
        return rearrange(
            self.projection(states), "b (n h w) (c t p q) -> b (n t) c (h p) (w q)", n=n, h=h, w=w, t=t, p=p, q=p
        )


DECODERS = {AUDIO: AudioDecoder, IMAGE: ImageDecoder, VIDEO: VideoDecoder}
