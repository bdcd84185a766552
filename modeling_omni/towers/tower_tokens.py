"""What a tower gives, as tokens with their places in time.

Shapes: B batch, S tokens, F width of the features, T frames of a video, L positions in time of a tower's input.
"""

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel


@dataclass
class TowerTokens:
    """
    Args:
        features: (B, S, F).
        attention_mask: bool (B, S), True where real; `None`: all are.
        positions: (S,) float, where in the tower's input each token lies: frames of a video or a spectrogram, or
            samples. Tokens of the whole, such as a class token, lie in the middle.
        length: L, so that positions lie in [0, L).
    """

    features: torch.Tensor
    attention_mask: torch.Tensor | None
    positions: torch.Tensor
    length: int

    def timestamps(self, rate: float) -> torch.Tensor:
        """(B, S) seconds, of an input that has `rate` positions per second."""
        return (self.positions / rate).expand(self.features.shape[0], -1)

    def timestamps_of(self, times: torch.Tensor) -> torch.Tensor:
        """(B, S) seconds, from the times (B, L) of the input's positions."""
        return (times[:, self.positions.floor().long()] + times[:, self.positions.ceil().long()]) / 2


def read_vision(tower: PreTrainedModel, pixels: torch.Tensor, mask: torch.Tensor | None = None) -> TowerTokens:
    """
    Args:
        tower: A video tower, or an image tower, which gets the frames one by one.
        pixels: (B, T, 3, H, W), or images (B, 3, H, W), which are videos of one frame.
        mask: (B, T), 1 where a frame is real.

    Raises:
        ValueError: for other shapes.
    """
    if pixels.ndim == 4:
        pixels = pixels.unsqueeze(1)
    if pixels.ndim != 5 or 0 in pixels.shape:
        raise ValueError(
            f"Pixels must be (batch, frames, channels, height, width), or without frames, got {tuple(pixels.shape)}."
        )
    frames = pixels.shape[1]
    _check_mask("vision_attention_mask", mask, pixels.shape[:2])
    if reads_videos(tower):
        features = _run(tower, {tower.main_input_name: pixels})
        patch = getattr(tower.config, "tubelet_size", 1)
        patch = patch if isinstance(patch, int) else patch[0]
        centres = torch.arange(frames // patch) * patch + (patch - 1) / 2
        times_first = tower.config.model_type != "timesformer"
    else:
        features = _run(tower, {tower.main_input_name: pixels.flatten(0, 1)})
        features = features.unflatten(0, pixels.shape[:2]).flatten(1, 2)  # (B * T, N, F) -> (B, T * N, F)
        centres, times_first = torch.arange(frames), True
    positions, prefix = _spread(centres, features.shape[1], times_first, frames)
    return _tokens(features, mask, positions, prefix, frames)


def read_audio(tower: PreTrainedModel, audio: torch.Tensor, mask: torch.Tensor | None = None) -> TowerTokens:
    """
    Args:
        tower: Of waveforms or of spectrograms.
        audio: What the tower reads: waveforms (B, L), or spectrograms (B, L, bands), (B, bands, L) for towers like
            Whisper's, or (B, crops, L, bands) for towers like CLAP's.
        mask: (B, L), 1 where real.
    """
    if audio.ndim not in (2, 3, 4) or 0 in audio.shape:
        raise ValueError(f"Audio must be (batch, samples) or a batch of spectrograms, got {tuple(audio.shape)}.")
    length = audio.shape[_time_axis(tower, audio)]
    _check_mask("audio_attention_mask", mask, (audio.shape[0], length))
    masks_itself = hasattr(tower, "_get_feature_vector_attention_mask")  # wav2vec 2.0 and its kin
    inputs = {tower.main_input_name: audio}
    if masks_itself and mask is not None:
        inputs["attention_mask"] = mask
    columns = None
    features = _run(tower, inputs, keep_maps=True)
    if features.ndim == 4:  # (B, F, bands, columns)
        columns, features = features.shape[3], features.flatten(2).transpose(1, 2)
    elif tower.config.model_type == "audio-spectrogram-transformer":  # bands, then columns, after two class tokens
        columns = (length - tower.config.patch_size) // tower.config.time_stride + 1
    tokens = features.shape[1]
    columns = tokens if columns is None else columns
    centres = (torch.arange(columns) + 0.5) * length / columns
    positions, prefix = _spread(centres, tokens, tokens == columns, length)
    if masks_itself and mask is not None:
        own = tower._get_feature_vector_attention_mask(tokens, mask).bool()
        return TowerTokens(features, own, positions.to(features.device), length)
    return _tokens(features, mask, positions, prefix, length)


def read_text(tower: PreTrainedModel, input_ids: torch.Tensor, mask: torch.Tensor | None = None) -> TowerTokens:
    """
    Args:
        tower: Of text.
        input_ids: (B, S).
        mask: (B, S), 1 where real.
    """
    if input_ids.ndim != 2 or 0 in input_ids.shape:
        raise ValueError(f"`input_ids` must be (batch, tokens), got {tuple(input_ids.shape)}.")
    _check_mask("attention_mask", mask, input_ids.shape)
    features = _run(tower, {"input_ids": input_ids, "attention_mask": mask})
    return _tokens(features, mask, torch.arange(input_ids.shape[1]).float(), 0, input_ids.shape[1])


def reads_videos(tower: PreTrainedModel) -> bool:
    """Whether a vision tower reads all frames at once."""
    kinds = ("video", ("video",))
    return (
        tower.main_input_name == "pixel_values_videos"
        or tower.input_modalities in kinds
        or tower.config.model_type == "timesformer"  # which calls its input images
    )


def _time_axis(tower, audio):
    if audio.ndim == 3 and tower.main_input_name == "input_features":
        return 2 if audio.shape[1] == getattr(tower.config, "num_mel_bins", None) else 1
    return 2 if audio.ndim == 4 else 1


def _run(tower, inputs, keep_maps=False):
    """(B, S, F) features, or feature maps (B, F, ...) as they are."""
    outputs = tower(**inputs, return_dict=True)
    features = getattr(outputs, "last_hidden_state", None)
    if features is None:
        raise ValueError(f"{type(tower).__name__} is no tower: its output has no `last_hidden_state`.")
    if features.ndim == 3 or keep_maps:
        return features
    return features.flatten(2).transpose(1, 2)


def _spread(centres, tokens, times_first, length):
    """Positions (S,) of tokens on a grid of so many places in time, and how many tokens of the whole precede it."""
    rows, prefix = tokens // centres.shape[0], tokens % centres.shape[0]  # exporters trace no `len` nor `divmod`
    grid = centres.repeat_interleave(rows) if times_first else centres.repeat(rows)
    return torch.cat([torch.full((prefix,), (length - 1) / 2), grid.float()]), prefix


def _tokens(features, mask, positions, prefix, length):
    positions = positions.to(features.device)
    if mask is not None:
        mask = mask.bool()
        whole = mask.any(dim=1, keepdim=True).expand(-1, prefix)
        mask = torch.cat([whole, mask[:, positions[prefix:].floor().long()]], dim=1)
    return TowerTokens(features, mask, positions, length)


def _check_mask(name, mask, shape):
    if mask is not None and mask.shape != torch.Size(shape):
        raise ValueError(f"`{name}` must have the shape {tuple(shape)}, got {tuple(mask.shape)}.")
