"""Norms and feed-forward layers by their formulas, each by one word."""

import math

import pytest
import torch

from omnilatent.modeling_omni.layers import RMSNorm, ScaleNorm, make_feed_forward, make_norm


def randomised(module):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return module.double()


def sigmoid(x):
    return 1 / (1 + torch.exp(-x))


GATES = {
    "standard": lambda up, gate: up * 0.5 * (1 + torch.erf(up / math.sqrt(2))),
    "glu": lambda up, gate: up * sigmoid(gate),
    "swiglu": lambda up, gate: up * gate * sigmoid(gate),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", GATES)
def test_a_feed_forward_layer_is_its_formula(kind, bias):
    layer, x = randomised(make_feed_forward(kind, 5, 7, bias=bias)), torch.randn(2, 3, 5).double()

    def project(name, states):
        linear = getattr(layer, name, None)
        if linear is None:
            return None
        assert (linear.bias is not None) == bias
        return states @ linear.weight.T + (linear.bias if bias else 0)

    hidden = GATES[kind](project("up_proj", x), project("gate_proj", x))
    torch.testing.assert_close(layer(x), project("down_proj", hidden))


@pytest.mark.parametrize("kind", GATES)
def test_dropout_falls_on_the_hidden_layer_in_training_only(kind):
    layer, x = randomised(make_feed_forward(kind, 5, 7, dropout=0.5)), torch.randn(2, 3, 5).double()
    assert torch.equal(layer.eval()(x), layer(x))
    assert not torch.allclose(layer.train()(x), layer(x))


def test_the_standard_layer_takes_another_activation():
    layer, x = (
        randomised(make_feed_forward("standard", 5, 7, hidden_act="relu", bias=False)),
        torch.randn(3, 5).double(),
    )
    torch.testing.assert_close(layer(x), (x @ layer.up_proj.weight.T).clamp(min=0) @ layer.down_proj.weight.T)


@pytest.mark.parametrize("kind", ["layer_norm", "rms_norm", "scale_norm"])
def test_a_norm_is_its_formula(kind):
    norm, x = randomised(make_norm(kind, 6, eps=1e-5)), torch.randn(2, 3, 6).double() * 4 + 1
    if kind == "layer_norm":
        centred = x - x.mean(dim=-1, keepdim=True)
        expected = centred / (centred.pow(2).mean(dim=-1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias
    elif kind == "rms_norm":
        expected = x / (x.pow(2).mean(dim=-1, keepdim=True) + 1e-5).sqrt() * norm.weight
    else:
        expected = norm.weight * x / x.pow(2).sum(dim=-1, keepdim=True).sqrt()
    torch.testing.assert_close(norm(x), expected)


@pytest.mark.parametrize("norm", [RMSNorm(16), ScaleNorm(16)])
def test_norms_start_alike_and_compute_in_float32(norm):
    x = torch.full((2, 16), 300.0, dtype=torch.float16)  # its square is infinite in half precision
    torch.testing.assert_close(norm(x), torch.ones(2, 16, dtype=torch.float16))


def test_zero_has_a_length_to_divide_by():
    assert torch.equal(ScaleNorm(4)(torch.zeros(1, 4)), torch.zeros(1, 4))


def test_unknown_words_are_refused():
    with pytest.raises(ValueError, match="no norm 'batch_norm': choose one of layer_norm, rms_norm, scale_norm"):
        make_norm("batch_norm", 4)
    with pytest.raises(ValueError, match="no feed-forward layer 'reglu': choose one of standard, glu, swiglu"):
        make_feed_forward("reglu", 4, 8)
