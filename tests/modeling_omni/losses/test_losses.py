"""Losses against loops and closed forms."""

import pytest
import torch

from omnilatent.modeling_omni.losses import (
    LossWeights,
    ctc_readout_loss,
    masked_mse_loss,
    next_token_loss,
)


def test_squared_error_counts_what_is_real_only():
    prediction, target = torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[0.0, 0.0, 0.0]])
    assert masked_mse_loss(prediction, target, torch.tensor([[True, True, False]])).item() == 2.5
    assert masked_mse_loss(prediction, target, torch.zeros(1, 3, dtype=torch.bool)).item() == 0.0


def test_squared_error_of_half_precision_is_computed_in_float32():
    assert masked_mse_loss(torch.full((3,), 300.0).half(), torch.zeros(3).half()).item() == 90000.0


def test_next_tokens_without_any_label_cost_nothing():
    logits = torch.randn(2, 3, 11, requires_grad=True)
    loss = next_token_loss(logits, torch.full((2, 3), -100))
    loss.backward()
    assert loss.item() == 0.0 and not logits.grad.any()


def test_readout_is_certain_where_one_path_is():
    # three positions that spell "4 blank 7" beyond doubt
    logits = torch.full((1, 4, 9), -20.0)
    for position, token in enumerate([4, 0, 7]):
        logits[0, position, token] = 20.0
    loss = ctc_readout_loss(
        logits,
        torch.tensor([[1, 1, 1, 0]]).bool(),
        torch.tensor([[4, 7, 5]]),
        torch.tensor([[1, 1, 0]]).bool(),
        blank=0,
    )
    assert loss.item() == pytest.approx(0.0, abs=1e-4)


def test_a_readout_too_short_for_its_text_counts_as_zero():
    logits = torch.randn(1, 2, 9)
    text = torch.tensor([[4, 5, 6]])
    assert ctc_readout_loss(logits, torch.ones(1, 2).bool(), text, torch.ones(1, 3).bool(), blank=0).item() == 0.0


def test_the_best_weight_is_the_inverse_of_the_loss():
    weights = LossWeights({"a": 0.0, "b": 0.0}, {"a": 1.0, "b": 1.0})
    losses = {"a": torch.tensor(0.05), "b": torch.tensor(2.0)}
    optimizer = torch.optim.SGD(weights.parameters(), lr=0.5)
    for _ in range(400):
        optimizer.zero_grad()
        weights(losses).backward()
        optimizer.step()
    torch.testing.assert_close(weights.log_variance.exp(), torch.tensor([0.05, 2.0]), rtol=1e-3, atol=1e-3)


def test_fixed_weights_are_plain_factors():
    weights = LossWeights({"a": 0.0, "b": 0.0}, {"a": 2.0, "b": 0.0}, learned=False)
    assert weights({"a": torch.tensor(3.0), "b": torch.tensor(5.0)}).item() == 6.0
