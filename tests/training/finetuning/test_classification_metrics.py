"""Figures of classifiers against naive counting."""

import numpy as np
import pytest
from transformers import EvalPrediction

from omnilatent.training.finetuning import accuracy, compute_classification_metrics, f1_score, top_k_accuracy

LABELS = 7


@pytest.fixture
def answers():
    generator = np.random.default_rng(0)
    references = generator.integers(0, LABELS - 1, 101)  # the last label is never true
    scores = generator.normal(size=(101, LABELS)) + 1.5 * np.eye(LABELS)[references]
    return scores, references


def naive_f1(predictions, references, label):
    hits = sum(p == label and r == label for p, r in zip(predictions, references))
    precision = hits / max(1, sum(p == label for p in predictions))
    recall = hits / max(1, sum(r == label for r in references))
    return 2 * precision * recall / (precision + recall) if hits else 0.0


def test_f1_is_the_mean_over_labels_that_occur(answers):
    scores, references = answers
    best = scores.argmax(axis=1)
    each = [naive_f1(best, references, label) for label in range(LABELS)]
    assert (best == LABELS - 1).any() and each[-1] == 0
    assert f1_score(best, references) == pytest.approx(sum(each) / LABELS)
    weights = [(references == label).mean() for label in range(LABELS)]
    assert f1_score(best, references, "weighted") == pytest.approx(np.dot(each, weights))
    assert f1_score(best, references, "micro") == accuracy(best, references)
    # labels that nobody speaks of do not count
    assert f1_score(best + 10, references + 10) == f1_score(best, references)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_counts_like_sorting(answers, k):
    scores, references = answers
    found = [label in np.argsort(row)[-k:] for row, label in zip(scores, references)]
    assert top_k_accuracy(scores, references, k) == pytest.approx(np.mean(found))


def test_equal_scores_share_the_places():
    assert top_k_accuracy(np.zeros((3, 10)), np.array([0, 4, 9])) == pytest.approx(0.5)


def test_trainer_gets_three_figures(answers):
    scores, references = answers
    figures = compute_classification_metrics(EvalPrediction((scores, scores + 1), references))
    assert figures == {
        "accuracy": (scores.argmax(axis=1) == references).mean(),
        "f1": f1_score(scores.argmax(axis=1), references),
        "top5": top_k_accuracy(scores, references),
    }
    assert "top5" not in compute_classification_metrics(EvalPrediction(scores[:, :5], references % 5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: accuracy([], []), "0 and 0"),
        (lambda: f1_score([1, 2], [1]), "2 and 1"),
        (lambda: f1_score([1], [1], "mean"), "'mean'"),
        (lambda: top_k_accuracy([[np.nan, 1.0]], [0]), "NaN"),
        (lambda: compute_classification_metrics(EvalPrediction(np.full((2, 3), np.nan), np.zeros(2, int))), "NaN"),
    ],
)
def test_what_has_no_figure_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
