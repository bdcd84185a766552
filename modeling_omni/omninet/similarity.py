"""Cosines between the embeddings of two modalities."""

import torch
from torch.nn import functional as F

from ..layers.token_checks import check_no_nan, check_tokens


def batch_similarity(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Between the samples of a batch: (N, D) and (M, D) -> (N, M).

    Raises:
        ValueError: for other axes, different widths, or NaN.
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(
            f"Expected embeddings (N, D) and (M, D) of one width, got {tuple(first.shape)} and {tuple(second.shape)}."
        )
    check_no_nan("first", first)
    check_no_nan("second", second)
    return F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).transpose(0, 1)


def token_similarity(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Between the tokens of each sample: (B, S1, D) and (B, S2, D) -> (B, S1, S2).

    Raises:
        ValueError: as `check_token_pairs`.
    """
    check_token_pairs(first, second)
    return F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).transpose(1, 2)


def check_token_pairs(first: torch.Tensor, second: torch.Tensor):
    """Raise a ValueError unless both are (batch, tokens, width) of one batch and width, without NaN."""
    for name, embeddings in (("first", first), ("second", second)):
        check_tokens(name, embeddings, first.shape[-1])
        check_no_nan(name, embeddings)
    if len(first) != len(second):
        raise ValueError(f"Row i of both is sample i, but there are {len(first)} and {len(second)} samples.")
