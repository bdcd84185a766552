"""From a modality's tensor to tokens of the backbone's width.

Each encoder maps (values, mask) to (B, tokens, hidden_size); which of the tokens are real is
`layout.token_mask`'s answer. Padding is zeroed on the way, so that it never reaches a real token.
"""

import torch
from einops import rearrange
from torch import nn

from ...configuration.configuration_omnilatent import OmniLatentConfig
from ...configuration.configuration_relpos_vit import RelPosViTConfig
from ...configuration.modalities import AUDIO, IMAGE, VIDEO
from ..relpos_vit.modeling_relpos_vit import RelPosViTModel
from ..relpos_vit.pixel_masks import fill_patches


class AudioEncoder(nn.Module):
    """Two strided convolutions over mel frames: (B, mels, F) -> (B, ceil(F / 4), hidden_size)."""

    def __init__(self, config: OmniLatentConfig):
        super().__init__()
        self.conv1 = nn.Conv1d(config.num_mel_bins, config.hidden_size, kernel_size=3, stride=2, padding=1)
        self.conv2 = nn.Conv1d(config.hidden_size, config.hidden_size, kernel_size=3, stride=2, padding=1)

    def forward(self, values: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        states = values if mask is None else values.masked_fill(~mask.unsqueeze(1), 0)
        states = nn.functional.gelu(self.conv1(states))
        if mask is not None:
            states = states.masked_fill(~mask[:, ::2].unsqueeze(1), 0)
        return self.conv2(states).transpose(1, 2)


class ImageEncoder(nn.Module):
    """Square patches, projected: (B, C, H, W) -> (B, patches, hidden_size)."""

    def __init__(self, config: OmniLatentConfig):
        super().__init__()
        self.patch_size = config.image_patch_size
        self.projection = nn.Linear(config.num_channels * self.patch_size**2, config.hidden_size)

    def forward(self, values: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        if mask is not None:
            values = values.masked_fill(~mask.unsqueeze(1), 0)
        p = self.patch_size
        return self.projection(rearrange(values, "b c (h p) (w q) -> b (h w) (c p q)", p=p, q=p))


class VideoEncoder(nn.Module):
    """Tubes of frames and pixels, projected, which is a strided 3-D convolution: (B, N, C, H, W) -> (B, tubes, D)."""

    def __init__(self, config: OmniLatentConfig):
        super().__init__()
        self.patch_size, self.tubelet_size = config.video_patch_size, config.video_tubelet_size
        self.projection = nn.Linear(config.num_channels * self.tubelet_size * self.patch_size**2, config.hidden_size)

    def forward(self, values: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        if mask is not None:
            values = values.masked_fill(~mask.unsqueeze(2), 0)
        t, p = self.tubelet_size, self.patch_size
        return self.projection(rearrange(values, "b (n t) c (h p) (w q) -> b (n h w) (c t p q)", t=t, p=p, q=p))


class RelPosViTEncoder(nn.Module):
    """Patches of images, or tubes of videos, that a ViT with relative position bias has compared with each other.

    Args:
        name: IMAGE or VIDEO.
    """

    def __init__(self, config: OmniLatentConfig, name: str):
        super().__init__()
        sizes = {"image_size": config.image_size, "patch_size": config.image_patch_size}
        if name == VIDEO:
            sizes = {"image_size": config.video_size, "patch_size": config.video_patch_size}
            sizes |= {"num_frames": config.num_frames, "tubelet_size": config.video_tubelet_size}
        self.vit = RelPosViTModel(
            RelPosViTConfig(
                hidden_size=config.hidden_size,
                num_hidden_layers=config.vision_encoder_layers,
                num_attention_heads=config.num_attention_heads,
                attention_dropout=config.attention_dropout,
                layer_norm_eps=config.rms_norm_eps,
                layer_scale_init_value=config.layer_scale_init_value,
                initializer_range=config.initializer_range,
                num_channels=config.num_channels,
                attn_implementation=config._attn_implementation,
                **sizes,
            )
        )

    def forward(self, values: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        if mask is not None:
            values = values.masked_fill(~mask.unsqueeze(-3), 0)
            mask = fill_patches(mask, self.vit.config.patch_shape)
        return self.vit(values, mask).last_hidden_state


ENCODERS = {AUDIO: AudioEncoder, IMAGE: ImageEncoder, VIDEO: VideoEncoder}


def make_encoder(config: OmniLatentConfig, name: str) -> nn.Module:
    """The encoder of a modality that the config asks for."""
    if config.vision_encoder_layers > 0 and name in (IMAGE, VIDEO):
        return RelPosViTEncoder(config, name)
    return ENCODERS[name](config)
