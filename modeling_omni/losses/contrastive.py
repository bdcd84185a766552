"""Contrast between two sets of embeddings of the same samples."""

import torch
from torch.nn import functional as F


def contrastive_loss(first: torch.Tensor, second: torch.Tensor, logit_scale: torch.Tensor | float) -> torch.Tensor:
    """Symmetric InfoNCE across the batch (Radford et al. 2021, figure 3).

    Row i of `first` belongs to row i of `second`; all other rows are its negatives. With one row there is no
    negative and the loss is 0.

    Args:
        first, second: (B, D); normalised here, in float32.
        logit_scale: factor on the cosines; 20 is a temperature of 0.05.

    Raises:
        ValueError: when the shapes differ.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent.modeling_omni.losses import contrastive_loss

    >>> same = torch.eye(4)
    >>> bool(contrastive_loss(same, same, 20.0) < contrastive_loss(same, same.flip(0), 20.0))
    True
    ```
    """
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(
            f"Contrast needs two (batch, size) tensors of one shape, got {tuple(first.shape)} and {tuple(second.shape)}."
        )
    first, second = F.normalize(first.float(), dim=-1), F.normalize(second.float(), dim=-1)
    logits = logit_scale * first @ second.T
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
