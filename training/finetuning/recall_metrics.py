"""Retrieval among samples of which several may be right: recall at k, and what chance would give.

Shapes: n queries, m candidates.
"""

from collections.abc import Sequence
from math import comb

import torch

RANKS = (1, 5, 10)


def recall_among(similarity: torch.Tensor, positive: torch.Tensor, ranks: Sequence[int] = RANKS) -> dict[int, float]:
    """
    How often a right candidate is among the k nearest.

    Args:
        similarity: (n, m).
        positive: (n, m) bool, which candidates are right; at least one for each query.
        ranks: Each k.

    Returns:
        For each k a share of the queries, 0 to 1. Wrong candidates as near as the nearest right one share its places.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent.training.finetuning import recall_among

    >>> similarity = torch.tensor([[0.9, 0.1, 0.2], [0.3, 0.2, 0.1]])
    >>> recall_among(similarity, torch.tensor([[True, False, False], [False, True, False]]), ranks=(1, 2))
    {1: 0.5, 2: 1.0}
    ```
    """
    if not positive.any(dim=1).all():
        raise ValueError("Each query needs a candidate that is right.")
    best = similarity.masked_fill(~positive, -torch.inf).amax(dim=1, keepdim=True)
    better = (similarity > best).sum(dim=1)  # none of them right
    equal = ((similarity == best) & ~positive).sum(dim=1)
    return {rank: ((rank - better) / (equal + 1)).clamp(0, 1).mean().item() for rank in ranks}


def chance_of_recall(positive: torch.Tensor, rank: int = 1) -> float:
    """What [`recall_among`] gives on average for candidates in any order."""
    candidates = positive.shape[1]
    rank = min(rank, candidates)
    misses = [comb(candidates - int(count), rank) / comb(candidates, rank) for count in positive.sum(dim=1)]
    return 1 - sum(misses) / len(misses)


def retrieval_metrics(similarity: torch.Tensor, ids: torch.Tensor, second: str = "image") -> dict[str, float]:
    """
    The figures of text against pictures, or another modality, both ways.

    Args:
        similarity: (n, n), rows of texts and columns of pictures; row i belongs to column i.
        ids: (n,), equal ones are the same caption.
        second: What the columns are.

    Returns:
        `text_to_image_R@1`, ... `image_to_text_R@10`; `R@1`, the mean of both ways; `chance`, what chance gives for it.
    """
    positive = ids[:, None] == ids
    figures = {}
    for name, matrix in ((f"text_to_{second}", similarity), (f"{second}_to_text", similarity.T)):
        figures |= {f"{name}_R@{rank}": share for rank, share in recall_among(matrix, positive).items()}
    both = [figures[f"text_to_{second}_R@1"], figures[f"{second}_to_text_R@1"]]
    return {"R@1": sum(both) / 2, **figures, "chance": chance_of_recall(positive)}
