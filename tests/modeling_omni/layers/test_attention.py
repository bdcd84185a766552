"""The one attention against a loop over queries in float64."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from omnilatent.modeling_omni.layers import Attention, MultiAxisRotary, RMSNorm, apply_rotary

sys.path.append(str(Path(__file__).parents[2]))
import reference  # noqa: E402

BATCH, QUERIES, KEYS = 2, 5, 7


def build(**kwargs):
    torch.manual_seed(0)
    attention = Attention(24, 6, num_key_value_heads=2, **kwargs).double().eval()
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return attention


def naive(attention, x, context=None, mask=None, positions=None, bias=None):
    context = x if context is None else context

    def heads(linear, norm, states):
        states = linear(states).unflatten(-1, (-1, attention.head_dim))
        if isinstance(norm, RMSNorm):
            states = reference.rms_norm(states, norm.weight, norm.eps)
        return states.transpose(1, 2)

    query = heads(attention.q_proj, attention.q_norm, x)
    key = heads(attention.k_proj, attention.k_norm, context)
    value = heads(attention.v_proj, None, context)
    if positions is not None:
        query, key = reference.rotate(query, positions, 100.0), reference.rotate(key, positions, 100.0)
    return attention.o_proj(reference.attention(query, key, value, mask, bias).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_grouped_self_attention_equals_the_loop(kernel, qk_norm, bias):
    attention = build(kernel=kernel, qk_norm=qk_norm, bias=bias)
    x = torch.randn(BATCH, QUERIES, 24, dtype=torch.float64)
    torch.testing.assert_close(attention(x)[0], naive(attention, x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_cross_attention_reads_a_context_of_another_width(kernel):
    attention = build(kernel=kernel, context_size=11)
    x, context = torch.randn(BATCH, QUERIES, 24).double(), torch.randn(BATCH, KEYS, 11).double()
    torch.testing.assert_close(attention(x, context=context)[0], naive(attention, x, context), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_a_query_without_any_key_gets_zero(kernel):
    attention = build(kernel=kernel)
    x = torch.randn(BATCH, QUERIES, 24).double()
    mask = torch.rand(BATCH, 1, QUERIES, QUERIES) > 0.4
    mask[0, 0, 2] = False
    output = attention(x, attention_mask=mask)[0]
    torch.testing.assert_close(output, naive(attention, x, mask=mask), rtol=1e-6, atol=1e-6)
    assert torch.equal(output[0, 2], torch.zeros(24, dtype=torch.float64))


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_a_bias_joins_the_scores(kernel):
    attention = build(kernel=kernel)
    x = torch.randn(BATCH, QUERIES, 24).double()
    bias = torch.randn(6, QUERIES, QUERIES).double()
    expected = naive(attention, x, bias=bias)
    torch.testing.assert_close(attention(x, position_bias=bias[None])[0], expected, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(attention(x)[0], expected)


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_rotary_positions_on_three_axes(kernel):
    attention = build(kernel=kernel, head_dim=8)
    x = torch.randn(BATCH, QUERIES, 24).double()
    positions = torch.rand(3, BATCH, QUERIES) * 9
    rotary = MultiAxisRotary(8, theta=100.0)(positions, torch.float64)
    torch.testing.assert_close(
        attention(x, rotary=rotary)[0], naive(attention, x, positions=positions), rtol=1e-5, atol=1e-5
    )


def test_one_axis_is_the_rotary_embedding_of_llama():
    states, positions = torch.randn(2, 3, 5, 8), torch.arange(5).expand(1, 2, 5)
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = LlamaConfig(hidden_size=24, num_attention_heads=3, rope_theta=10000.0)
    cos, sin = LlamaRotaryEmbedding(config)(states, positions[0])
    expected, _ = apply_rotary_pos_emb(states, states, cos, sin)
    torch.testing.assert_close(apply_rotary(states, MultiAxisRotary(8)(positions, torch.float32)), expected)


def test_rotation_keeps_length_and_depends_on_distance_only():
    rotary = MultiAxisRotary(12)
    q, k = torch.randn(1, 1, 1, 12), torch.randn(1, 1, 1, 12)

    def score(at_q, at_k):
        turned = [
            apply_rotary(states, rotary(torch.tensor(at, dtype=torch.float32).view(3, 1, 1), torch.float32))
            for states, at in ((q, at_q), (k, at_k))
        ]
        torch.testing.assert_close(turned[0].norm(), q.norm())
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(score([1.0, 2.0, 3.0], [2.5, 0.0, 1.0]), score([11.0, 7.0, 3.5], [12.5, 5.0, 1.5]))


def test_norms_compute_in_float32():
    norm = RMSNorm(16)
    x = torch.full((2, 16), 300.0, dtype=torch.float16)  # its square is infinite in half precision
    torch.testing.assert_close(norm(x), torch.ones(2, 16, dtype=torch.float16))


@pytest.mark.parametrize(
    "sizes, message",
    [((10, 3), "hidden_size 10 is not divisible by num_attention_heads 3"), ((12, 6, 4), "6 is not divisible.*4")],
)
def test_heads_that_do_not_divide_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        Attention(*sizes)


def test_a_kernel_without_a_mask_builder_is_refused():
    from omnilatent.modeling_omni.layers.kernels import get_mask_builder

    config = LlamaConfig()
    config._attn_implementation = "homemade"
    with pytest.raises(ValueError, match="'homemade' has no mask builder"):
        get_mask_builder(config)
