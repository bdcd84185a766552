"""Attention in which some keys have gates, against softmax with weights scaled by the gates."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from omnilatent.modeling_omni.layers import Attention, gated_mask
from omnilatent.modeling_omni.layers.gated_mask import GatedMask

BATCH, TOKENS, GATED = 2, 9, 4  # three keys with the first gate, one with the second


def make_mask(gate_bias, dtype, device="cpu", seed=1):
    generator = torch.Generator().manual_seed(seed)
    seen = (torch.rand(BATCH, 1, TOKENS, TOKENS, generator=generator) > 0.3).to(device)
    seen[..., -1] = True
    gated = torch.zeros(BATCH, 1, TOKENS, TOKENS, dtype=dtype, device=device)
    gated[:, :, GATED:, :GATED] = 1
    gate_of_key = torch.zeros(TOKENS, 2, dtype=dtype, device=device)
    gate_of_key[:3, 0] = gate_of_key[3, 1] = 1
    open_mask = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill(~seen, torch.finfo(dtype).min)
    return seen, GatedMask(open_mask, gated, gate_of_key, torch.nn.functional.logsigmoid(gate_bias), GATED)


def naive(attention, x, seen, gate_bias):
    query, key, value = (
        proj(x).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for proj in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    gates = torch.ones(TOKENS, TOKENS, dtype=x.dtype, device=x.device)
    gates[GATED:, :GATED] = torch.cat([gate_bias[:1].expand(3), gate_bias[1:]]).sigmoid()
    weights = (query @ key.transpose(2, 3) * attention.scaling).exp() * gates * seen
    weights = weights / weights.sum(-1, keepdim=True)
    return attention.o_proj((weights @ value).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_a_gate_scales_the_weight_of_its_keys(kernel):
    torch.manual_seed(0)
    attention = Attention(32, 4, kernel=kernel).double()
    x = torch.randn(BATCH, TOKENS, 32, dtype=torch.float64)
    bias = torch.tensor([-1.0, 0.7], dtype=torch.float64, requires_grad=True)
    seen, mask = make_mask(bias, torch.float64)
    output, expected = attention(x, attention_mask=mask)[0], naive(attention, x, seen, bias)
    torch.testing.assert_close(output, expected)
    weight = torch.randn_like(output)
    found, wanted = (torch.autograd.grad(each, bias, weight)[0] for each in (output, expected))
    torch.testing.assert_close(found, wanted)


def test_the_interpreted_kernel_equals_float64():
    # the interpreter must be chosen before triton is imported: in a process of its own
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "OMNILATENT_NO_REGISTRATION": "1"}
    script = Path(__file__).parent / "interpret_gates.py"
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def cudnn_on_the_cpu(query, key, value, bias, compute_log_sumexp, scale):
    scores = query @ key.transpose(2, 3) * scale + bias
    return scores.softmax(-1) @ value, scores.logsumexp(-1, keepdim=True)


def gradients_on_the_cpu(query, key, value, output, grad_output, bias, gated, log_sum, scaling):
    scores = (query @ key.transpose(2, 3)).float() * scaling + bias[..., : key.shape[2]]
    along = (grad_output.float() * output).sum(-1, keepdim=True)
    gradients = torch.exp(scores - log_sum) * (grad_output @ value.transpose(2, 3) - along)
    return (gradients * gated[..., : key.shape[2]]).sum((0, 1, 2))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_beside_a_kernel_without_it_the_gates_gradient_is_that_of_the_formula(device, compiled, monkeypatch):
    if device == "cpu":
        monkeypatch.setattr(gated_mask, "has_cudnn_kernel", lambda *_: True)
        monkeypatch.setattr(gated_mask, "cudnn_attention", cudnn_on_the_cpu)
        monkeypatch.setattr(gated_mask, "sum_score_gradients", gradients_on_the_cpu)
    torch.manual_seed(0)
    attention = Attention(256, 4).to(device)
    x = torch.randn(BATCH, TOKENS, 256, device=device, requires_grad=True)
    bias = torch.tensor([-1.0, 0.5], device=device, requires_grad=True)
    seen, mask = make_mask(bias, torch.bfloat16, device)
    assert gated_mask.has_cudnn_kernel(x.unflatten(-1, (4, -1)), mask)
    forward = torch.compile(attention, fullgraph=True, backend="aot_eager") if compiled else attention
    with torch.autocast(device, dtype=torch.bfloat16):
        output = forward(x, attention_mask=mask)[0]
    weight = torch.randn_like(output)
    found = torch.autograd.grad(output, [bias, x], weight)
    double, far = attention.double(), x.detach().double().requires_grad_()
    wanted = torch.autograd.grad(naive(double, far, seen, bias.double()), [bias, far], weight.double())
    for here, there in zip(found, wanted):
        assert (here - there).norm() < 2e-2 * there.norm()
