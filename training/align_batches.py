"""From the clips of a loader to what an aligner reads."""

from collections.abc import Mapping

import torch


def to_aligner_inputs(batch: Mapping, processor, device: torch.device | str) -> dict[str, torch.Tensor]:
    """
    Arguments of an [`AudioVisualAligner`] on its device.

    Args:
        batch: Raw clips of a `VideoLoader`: `video` (B, T, 3, H, W) uint8, `audio` (B, samples) int16 at the
            processor's rate of 16 kHz, and `has_audio` (B,) bool; the rest is not read.
        processor: [`AudioVisualAlignerProcessor`].
        device: Frames and spectrograms are sent there when they are made.
    """
    inputs = dict(processor(videos=batch["video"], audio=batch["audio"]))
    inputs["audio_present"] = batch["has_audio"].bool()
    return {name: values.to(device, non_blocking=True) for name, values in inputs.items()}
