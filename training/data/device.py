"""Raw batches to what the model reads. Runs on the device of the batch, so that workers need not compute mels."""

from collections.abc import Mapping
from typing import Any

import torch


def to_model_inputs(batch: Mapping[str, Any], config, feature_extractor=None) -> dict[str, torch.Tensor]:
    """
    Turn frames and samples of a [`VideoLoader`] batch into floats; leave alone what is a model input already.

    Args:
        batch: Any of `text` (B, L) long; `audio` (B, samples) int16 or float in [-1, 1], or (B, M, F) log-mel;
            `image` (B, 3, H, W) uint8, or float in [-1, 1]; `video` (B, T, 3, H, W) uint8, or (B, 3, T, H, W) float in
            [-1, 1]; and masks `has_<modality>` (B,) or `<modality>_mask`, which are passed on. The rest is left out.
        config: `OmniLatentConfig`.
        feature_extractor: Gives the settings of the mel spectrogram; `None`: those of `config`.

    Returns:
        The table of the four modalities: `text` (B, L) long, `audio` (B, M, F) float, `image` (B, 3, H, W) float,
        `video` (B, 3, T, H, W) float, and the masks.

    Raises:
        ValueError: for a shape or a type that is none of these.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent import OmniLatentConfig
    >>> from omnilatent.training.data import to_model_inputs

    >>> raw = {"video": torch.zeros(2, 16, 3, 112, 112, dtype=torch.uint8), "audio": torch.zeros(2, 32000)}
    >>> {name: tuple(value.shape) for name, value in to_model_inputs(raw, OmniLatentConfig()).items()}
    {'audio': (2, 128, 200), 'video': (2, 3, 16, 112, 112)}
    ```
    """
    inputs = {}
    if batch.get("text") is not None:
        inputs["text"] = _check("text", batch["text"], 2)
    if batch.get("audio") is not None:
        inputs["audio"] = _mel(batch["audio"], config, feature_extractor)
    if batch.get("image") is not None:
        inputs["image"] = _unit_range(_check("image", batch["image"], 4))
    if batch.get("video") is not None:
        inputs["video"] = _video(_check("video", batch["video"], 5), config)
    for modality in tuple(inputs):
        for mask in (f"has_{modality}", f"{modality}_mask"):
            if batch.get(mask) is not None:
                inputs[mask] = batch[mask]
    return inputs


def _check(name, value, num_dims):
    if value.ndim != num_dims:
        raise ValueError(f"{name!r} has shape {tuple(value.shape)}: expected {num_dims} dimensions.")
    return value


def _video(video, config):
    if video.dtype != torch.uint8:
        return video
    if video.shape[2] != config.num_channels:
        raise ValueError(
            f"'video' has shape {tuple(video.shape)}: expected (B, T, {config.num_channels}, H, W) of one in uint8."
        )
    return _unit_range(video.transpose(1, 2))


def _unit_range(pixels):
    return pixels.float() / 127.5 - 1 if pixels.dtype == torch.uint8 else pixels


def _mel(audio, config, feature_extractor):
    from ...processing.feature_extraction_omnilatent import log_mel

    if audio.ndim == 3:
        return audio
    _check("audio", audio, 2)
    settings = {
        "sampling_rate": config.sampling_rate,
        "hop_length": config.hop_length,
        "num_mel_bins": config.num_mel_bins,
    }
    if feature_extractor is not None:
        settings = {
            "sampling_rate": feature_extractor.sampling_rate,
            "hop_length": feature_extractor.hop_length,
            "num_mel_bins": feature_extractor.feature_size,
            "n_fft": feature_extractor.n_fft,
        }
    waveform = audio.float() / 32768 if audio.dtype == torch.int16 else audio
    return log_mel(waveform, **settings)
