"""Losses of classifiers.

Shapes: B batch, L labels.
"""

import torch
from torch.nn import functional as F

from ...configuration.modalities import IGNORE_INDEX


def classification_loss(logits: torch.Tensor, labels: torch.Tensor, problem_type: str | None = None) -> torch.Tensor:
    """Cross entropy of one label, binary cross entropy of several, or squared error of numbers, in float32.

    Args:
        logits: (B, L).
        labels: (B,) whole numbers with -100 for none; (B, L) floats of several labels; (B,) or (B, L) numbers.
        problem_type: `"single_label_classification"`, `"multi_label_classification"` or `"regression"`. `None`: numbers
            if L is 1, one label if the labels are whole numbers, several otherwise.

    Raises:
        ValueError: for labels that do not fit.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent.modeling_omni.losses import classification_loss

    >>> logits = torch.tensor([[4.0, 0.0], [0.0, 4.0]])
    >>> classification_loss(logits, torch.tensor([0, -100])).item() < 0.1
    True
    ```
    """
    if problem_type is None:
        several = "multi_label_classification" if labels.is_floating_point() else "single_label_classification"
        problem_type = "regression" if logits.shape[1] == 1 else several
    logits = logits.float()
    if problem_type == "single_label_classification":
        _check_shape(labels, logits.shape[:1])
        # not the mean of torch, which is NaN where no label counts
        total = F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="sum")
        return total / (labels != IGNORE_INDEX).sum().clamp(min=1)
    labels = labels.float()
    if problem_type == "regression":
        labels = labels.unsqueeze(1) if labels.ndim == 1 and logits.shape[1] == 1 else labels
        _check_shape(labels, logits.shape)
        return F.mse_loss(logits, labels)
    _check_shape(labels, logits.shape)
    return F.binary_cross_entropy_with_logits(logits, labels)


def soft_target_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy with targets in [0, 1], summed over the labels and averaged over the batch, in float32
    (Teney et al. 2018, section 3.7).

    Args:
        logits, targets: (B, L). A row of zeros says that none of the labels fits.

    Raises:
        ValueError: when the shapes differ.
    """
    _check_shape(targets, logits.shape)
    return F.binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="sum") / len(logits)


def _check_shape(labels, shape):
    if labels.shape != shape:
        raise ValueError(f"`labels` must have the shape {tuple(shape)}, got {tuple(labels.shape)}.")
