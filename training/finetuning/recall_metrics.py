"""Retrieval among samples of which several may be right: recall at k, and what chance would give.

Shapes: n queries or texts, m candidates or pictures.
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


def number_pictures(image_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    One place for each different picture.

    Args:
        image_ids: (n,), equal ones are the same picture.

    Returns:
        `rows` (m,), where each picture stands first, and `columns` (n,), which of the m that of each row is.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent.training.finetuning.recall_metrics import number_pictures

    >>> number_pictures(torch.tensor([7, 7, 4, 7, 4]))
    (tensor([0, 2]), tensor([0, 0, 1, 0, 1]))
    ```
    """
    rows, numbers, columns = [], {}, []
    for row, image_id in enumerate(image_ids.tolist()):
        if image_id not in numbers:
            numbers[image_id] = len(numbers)
            rows.append(row)
        columns.append(numbers[image_id])
    return torch.tensor(rows), torch.tensor(columns)


def retrieval_metrics(
    similarity: torch.Tensor, ids: torch.Tensor, second: str = "image", columns: torch.Tensor | None = None
) -> dict[str, float]:
    """
    The figures of text against pictures, or another modality, both ways.

    Args:
        similarity: (n, m), rows of texts and columns of different pictures.
        ids: (n,), equal ones are the same caption, which is right for the pictures of all its rows.
        second: What the columns are.
        columns: (n,), the column of each text's own picture. `None`: row i belongs to column i.

    Returns:
        `text_to_image_R@1`, ... `image_to_text_R@10`; `R@1`, the mean of both ways; `chance`, what chance gives for it.
    """
    columns = torch.arange(len(ids)) if columns is None else columns
    captions = ids.unique(return_inverse=True)[1]
    right = torch.zeros(len(ids), similarity.shape[1], dtype=torch.bool)  # (captions, m)
    right[captions, columns] = True
    positive = right[captions]
    figures = {}
    ways = ((f"text_to_{second}", similarity, positive), (f"{second}_to_text", similarity.T, positive.T))
    for name, matrix, wanted in ways:
        figures |= {f"{name}_R@{rank}": share for rank, share in recall_among(matrix, wanted).items()}
    both = [figures[f"text_to_{second}_R@1"], figures[f"{second}_to_text_R@1"]]
    return {"R@1": sum(both) / 2, **figures, "chance": (chance_of_recall(positive) + chance_of_recall(positive.T)) / 2}
