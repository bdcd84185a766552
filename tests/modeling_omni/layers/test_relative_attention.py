"""Attention with a looked-up bias: interpreted on the CPU, on a GPU where there is one, and what it leaves to sdpa."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from omnilatent.modeling_omni.layers import Attention
from omnilatent.modeling_omni.layers.relative_attention import relative_attention
from omnilatent.modeling_omni.layers.relative_bias import RelativeBias
from omnilatent.modeling_omni.layers.relative_position import num_relative_positions


def test_interpreted_kernels_equal_float64():
    # the interpreter must be chosen before triton is imported: in a process of its own
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "OMNILATENT_NO_REGISTRATION": "1"}
    script = Path(__file__).parent / "interpret_relative.py"
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_a_gpu_the_kernel_is_sdpa_with_a_dense_bias():
    torch.manual_seed(0)
    attention = Attention(24, 3, kernel="relative").double()
    bias = RelativeBias(torch.randn(num_relative_positions((2, 4)), 3).double(), (2, 4), (2, 4))
    x, mask = torch.randn(2, 8, 24).double(), torch.tensor([[1] * 8, [1] * 5 + [0] * 3])
    found, _ = attention(x, attention_mask=mask, position_bias=bias)
    attention.kernel = "eager"
    expected, _ = attention(x, attention_mask=mask.bool()[:, None, None], position_bias=bias.dense())
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("mask", [None, torch.tensor([[1] * 8, [1] * 5 + [0] * 3])])
def test_causal_attention_is_refused(mask):
    attention = Attention(24, 3, kernel="relative", is_causal=True)
    bias = RelativeBias(torch.zeros(num_relative_positions((8,)), 3), (8,), (8,))
    with pytest.raises(ValueError, match="hides padding and not the future"):
        attention(torch.zeros(2, 8, 24), attention_mask=mask, position_bias=bias)


def test_a_bias_of_another_size_is_refused():
    bias = RelativeBias(torch.zeros(num_relative_positions((2, 4), class_token=True), 3), (2, 4), (2, 4), True)
    states = torch.randn(1, 3, 8, 16)
    with pytest.raises(ValueError, match=r"\(9, 9\) tokens.*\(8, 8\)"):
        relative_attention(states, states, states, bias)


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize(("size", "class_token", "batch"), [((14, 14), True, 37), ((40, 31), False, 3)])
def test_on_the_gpu_it_equals_float64_and_gives_the_same_bits_twice(dtype, tolerance, size, class_token, batch):
    torch.manual_seed(0)
    tokens = size[0] * size[1] + class_token
    table = torch.randn(num_relative_positions(size, class_token=class_token), 4, device="cuda")
    states = torch.randn(4, batch, tokens, 4, 64, device="cuda").to(dtype).transpose(2, 3)
    key_mask = torch.rand(batch, tokens, device="cuda") > 0.1

    def run(states, table, forward):
        query, key, value, weight = states
        given = [tensor.detach().requires_grad_() for tensor in (query, key, value, table)]
        output = forward(*given[:3], RelativeBias(given[3], size, size, class_token))
        return [output.detach(), *torch.autograd.grad(output, given, weight)]

    def dense(query, key, value, bias):
        scores = (query @ key.transpose(2, 3) / 8 + bias.dense()).masked_fill(~key_mask[:, None, None], -1e30)
        return scores.softmax(-1) @ value

    def looked_up(query, key, value, bias):
        return relative_attention(query, key, value, bias, key_mask)

    expected = run(states.double(), table.double(), dense)
    found, again = (run(states, table, looked_up) for _ in range(2))
    for here, there, more in zip(found, expected, again):
        assert (here.double() - there).norm() < tolerance * there.norm()
        assert torch.equal(here, more)
