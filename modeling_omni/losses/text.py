"""Losses of text."""

import torch
from torch.nn import functional as F

from ...configuration.modalities import IGNORE_INDEX


def next_token_loss(logits: torch.Tensor, next_labels: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of the next token, in float32; 0 where no token counts.

    Args:
        logits: (B, T, vocab).
        next_labels: (B, T), the token after each position, -100 where none counts.
    """
    total = F.cross_entropy(
        logits.float().flatten(0, 1), next_labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
    )
    return total / (next_labels != IGNORE_INDEX).sum().clamp(min=1)


def ctc_readout_loss(
    logits: torch.Tensor, logits_mask: torch.Tensor, labels: torch.Tensor, labels_mask: torch.Tensor, blank: int
) -> torch.Tensor:
    """CTC (Graves et al. 2006) between text read out at source positions and the target text.

    A row whose text is longer than its source cannot be aligned and counts as 0.

    Args:
        logits: (B, S, vocab) with the real positions first.
        logits_mask: (B, S).
        labels: (B, T) with the real tokens first; `labels_mask`: (B, T).
        blank: id of the blank, the padding token.
    """
    return F.ctc_loss(
        logits.float().log_softmax(-1).transpose(0, 1),
        labels.masked_fill(~labels_mask, blank),
        logits_mask.sum(1),
        labels_mask.sum(1),
        blank=blank,
        zero_infinity=True,
    )
