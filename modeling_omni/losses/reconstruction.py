"""Losses of regressed modalities."""

import torch


def masked_mse_loss(prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Mean squared error over what is real, in float32.

    Args:
        prediction, target: one shape.
        mask: True where real; broadcast against them. `None`: all is real.

    Raises:
        ValueError: when the shapes differ.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"The prediction has shape {tuple(prediction.shape)}, the target {tuple(target.shape)}.")
    error = (prediction.float() - target.float()) ** 2
    if mask is None:
        return error.mean()
    mask = mask.expand_as(error)
    return error.masked_fill(~mask, 0).sum() / mask.sum().clamp(min=1)
