"""How good a classifier is: accuracy, macro F1, and whether the label is among the five best.

Shapes: n samples, L labels.
"""

from functools import partial

import numpy as np
from transformers import EvalPrediction


def accuracy(predictions: np.ndarray, references: np.ndarray) -> float:
    """Share of the samples whose prediction is right.

    Args:
        predictions, references: (n,) label ids.

    Raises:
        ValueError: for none, or different numbers of them.

    Example:

    ```python
    >>> from omnilatent.training.finetuning import accuracy

    >>> accuracy(predictions=[0, 2, 1, 1], references=[0, 2, 2, 1])
    0.75
    ```
    """
    predictions, references = _same_length(predictions, references)
    return float((predictions == references).mean())


def f1_score(predictions: np.ndarray, references: np.ndarray, average: str = "macro") -> float:
    """Harmonic mean of precision and recall, 2 hits / (predicted + true) for a label.

    Args:
        predictions, references: (n,) label ids.
        average: "macro": the mean over all labels that are predicted or true for some sample; "weighted": that mean
            weighted by how often a label is true; "micro": of all labels' counts together, which is the accuracy.

    Raises:
        ValueError: as `accuracy`, and for another `average`.

    Example:

    ```python
    >>> from omnilatent.training.finetuning import f1_score

    >>> f1_score(predictions=[0, 0, 1, 1], references=[0, 0, 0, 1])  # 4/5 and 2/3
    0.7333333333333334
    ```
    """
    predictions, references = _same_length(predictions, references)
    if average == "micro":
        return float((predictions == references).mean())
    labels, ids = np.unique(np.concatenate([predictions, references]), return_inverse=True)
    predicted, true = np.split(ids, 2)
    count = partial(np.bincount, minlength=len(labels))
    scores = 2 * count(true[predicted == true]) / (count(predicted) + count(true))
    if average == "macro":
        return float(scores.mean())
    if average == "weighted":
        return float(np.average(scores, weights=count(true)))
    raise ValueError(f"`average` must be macro, weighted or micro, got {average!r}.")


def top_k_accuracy(scores: np.ndarray, references: np.ndarray, k: int = 5) -> float:
    """Share of the samples whose label has one of the `k` best scores. Equal scores share their places.

    Args:
        scores: (n, L).
        references: (n,) label ids.

    Raises:
        ValueError: as `accuracy`, and for NaN.
    """
    scores, references = _same_length(scores, references)
    if np.isnan(scores).any():
        raise ValueError("`scores` hold NaN.")
    own = np.take_along_axis(scores, references[:, None], axis=1)
    better, equal = (scores > own).sum(axis=1), (scores == own).sum(axis=1)
    return float(((k - better) / equal).clip(0, 1).mean())


def compute_classification_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """`compute_metrics` of a Trainer: `accuracy`, `f1` (macro) and, where there are more than five labels, `top5`.

    Args:
        prediction: with `predictions` (n, L), of which the best counts, and `label_ids` (n,). Where the model gives more
            than logits, they come first.

    Raises:
        ValueError: for NaN, which has no best.
    """
    scores = prediction.predictions
    scores = np.asarray(scores[0] if isinstance(scores, tuple) else scores)
    if np.isnan(scores).any():
        raise ValueError("The model's logits hold NaN.")
    references = np.asarray(prediction.label_ids)
    best = scores.argmax(axis=1)
    figures = {"accuracy": accuracy(best, references), "f1": f1_score(best, references)}
    return figures | ({"top5": top_k_accuracy(scores, references)} if scores.shape[1] > 5 else {})


def _same_length(values, references):
    values, references = np.asarray(values), np.asarray(references)
    if len(values) != len(references) or len(references) == 0:
        raise ValueError(f"Expected as many predictions as references, got {len(values)} and {len(references)}.")
    return values, references
