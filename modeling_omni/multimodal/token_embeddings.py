"""From what an encoder reads to tokens of its width, with their places.

Shapes: B batch, N tokens, D hidden size, F width of features, M mel bands, L frames of a spectrogram.
"""

import torch
from torch import nn

from ...configuration.configuration_multimodal import EncoderConfig
from ..omnilatent.encoders import AudioEncoder
from ..relpos_vit.patch_embedding import PatchProjection

FRAMES_PER_TOKEN = 4  # of a spectrogram
# what reads an input; all others are features
LAYERS = {
    "input_ids": "words",
    "pixel_values": "patches",
    "pixel_values_videos": "patches",
    "input_features": "spectrogram",
}


class TokenEmbeddings(nn.Module):
    """The tables and projections of all that an `EncoderConfig` lets in."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        if config.vocab_size is not None:
            self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.image_size is not None:
            self.patches = PatchProjection(config.patch_shape, config.num_channels, config.hidden_size)
        if config.num_mel_bins is not None:
            self.spectrogram = AudioEncoder(config)
        if config.feature_size is not None:
            self.features = nn.Linear(config.feature_size, config.hidden_size)

    def forward(self, name: str, values: torch.Tensor, mask: torch.Tensor | None):
        """
        Args:
            name: `"input_ids"`, `"pixel_values"`, `"pixel_values_videos"`, `"input_features"` or `"..._features"`.
            values: what has that name.
            mask: bool, as `MultiModalTransformer.forward` takes it; `None`: all is real.

        Returns:
            Tokens (B, N, D); which of them are real, bool (B, N) or `None`; their places, long (axes, B, N): rows and
            columns for pictures, frames before them for videos, otherwise the number of real tokens before each.

        Raises:
            ValueError: for what the encoder has no input for, and shapes that do not fit.
        """
        layer = LAYERS.get(name, "features")
        read = {"words": self._read_text, "patches": self._read_pixels, "spectrogram": self._read_spectrogram}
        tokens, mask, places = read.get(layer, self._read_features)(name, values, mask)
        unread = [part for other, part in self.named_children() if other != layer]
        return tokens + nothing_of(unread) if self.training and unread else tokens, mask, places

    def _read_text(self, name, values, mask):
        self._check(name, values, 2, self.config.vocab_size, "vocab_size")
        self._check_mask(name, mask, values.shape)
        self._check_length(name, values.shape[1])
        return self.words(values), mask, _count(mask, values)

    def _read_features(self, name, values, mask):
        self._check(name, values, 3, self.config.feature_size, "feature_size")
        if values.shape[-1] != self.config.feature_size:
            raise ValueError(
                f"`{name}` must have the shape (batch, tokens, {self.config.feature_size}), got {tuple(values.shape)}."
            )
        self._check_mask(name, mask, values.shape[:2])
        self._check_length(name, values.shape[1])
        if mask is not None:
            values = values.masked_fill(~mask.unsqueeze(-1), 0)  # what pads may be anything, NaN too
        return self.features(values.to(self.features.weight.dtype)), mask, _count(mask, values)

    def _read_spectrogram(self, name, values, mask):
        self._check(name, values, 3, self.config.num_mel_bins, "num_mel_bins")
        if values.shape[1] != self.config.num_mel_bins:
            raise ValueError(
                f"`{name}` must have the shape (batch, {self.config.num_mel_bins}, frames), got {tuple(values.shape)}."
            )
        self._check_mask(name, mask, (values.shape[0], values.shape[2]))
        tokens = self.spectrogram(values.to(self.spectrogram.conv1.weight.dtype), mask)
        mask = None if mask is None else mask[:, ::FRAMES_PER_TOKEN]
        self._check_length(name, tokens.shape[1])
        return tokens, mask, _count(mask, tokens)

    def _read_pixels(self, name, values, mask):
        config = self.config
        frames = () if config.num_frames is None else (config.num_frames,)
        expected = (*frames, config.num_channels, config.image_size, config.image_size)
        is_video = name == "pixel_values_videos"
        if config.image_size is None or is_video != (config.num_frames is not None) or values.shape[1:] != expected:
            wanted = (
                "no pixels of this kind" if config.image_size is None else f"the shape (batch, {str(expected)[1:]}"
            )
            raise ValueError(f"`{name}` has the shape {tuple(values.shape)}; the encoder reads {wanted}.")
        values = values.transpose(1, 2) if is_video else values  # (B, frames, C, H, W) -> (B, C, frames, H, W)
        tokens = self.patches(values.to(self.patches.projection.weight.dtype))
        if mask is not None:
            self._check_mask(name, mask, (values.shape[0], config.num_frames if is_video else tokens.shape[1]))
            if is_video:  # a token is real if its first frame is
                mask = mask[:, :: config.tubelet_size].repeat_interleave(config.grid[1] * config.grid[2], dim=1)
        places = torch.cartesian_prod(*(torch.arange(n, device=values.device) for n in config.grid)).T
        return tokens, mask, places.unsqueeze(1).expand(-1, values.shape[0], -1)

    def _check(self, name, values, axes, size, word):
        if size is None:
            raise ValueError(f"The encoder reads no `{name}`: its config has no `{word}`.")
        if values.ndim != axes or 0 in values.shape:
            raise ValueError(f"`{name}` must have {axes} axes with something in each, got {tuple(values.shape)}.")

    def _check_length(self, name, length):
        if length > self.config.max_position_embeddings:
            raise ValueError(
                f"`{name}` makes {length} tokens, and `max_position_embeddings` is {self.config.max_position_embeddings}."
            )

    @staticmethod
    def _check_mask(name, mask, shape):
        if mask is not None and tuple(mask.shape) != tuple(shape):
            raise ValueError(f"The mask of `{name}` must have the shape {tuple(shape)}, got {tuple(mask.shape)}.")


def _count(mask, values):
    """The number of real tokens before each: (1, B, N), so that padding on either side changes nothing."""
    if mask is None:
        return torch.arange(values.shape[1], device=values.device).expand(1, values.shape[0], -1)
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0).unsqueeze(0)


def nothing_of(layers: list[nn.Module]) -> torch.Tensor | int:
    """0, in which the layers' parameters have a part.

    Data parallel training waits for the gradient of every parameter, unless it searches for those without one, which
    does not go together with gradient checkpointing.
    """
    # the mean of half-precision numbers cannot overflow
    return 0 * sum(parameter.mean() for layer in layers for parameter in layer.parameters() if parameter.requires_grad)
