"""MultiModalCrossAttention against a loop over queries in float64; each parameter must matter."""

import copy
import sys
from pathlib import Path

import pytest
import torch

from omnilatent import MultiModalCrossAttention

sys.path.append(str(Path(__file__).parents[2]))
import reference  # noqa: E402

BATCH, QUERIES, KEYS, DIM, HEADS, CONTEXT, WIDTH = 3, 5, 7, 22, 4, 13, 6


def randomised(**options):
    torch.manual_seed(0)
    attention = MultiModalCrossAttention(DIM, HEADS, CONTEXT, dim_head=WIDTH, **options).double().eval()
    for parameter in attention.parameters():
        parameter.data = torch.randn_like(parameter) * 0.4
    return attention


def inputs():
    return torch.randn(BATCH, QUERIES, DIM).double(), torch.randn(BATCH, KEYS, CONTEXT).double()


def naive(attention, x, context, mask=None):
    def heads(states, norm=None):
        states = states.unflatten(-1, (HEADS, WIDTH))
        if isinstance(norm, torch.nn.RMSNorm):
            states = reference.rms_norm(states, norm.weight, norm.eps)
        return states.transpose(1, 2)

    query = heads(attention.to_q(x), attention.q_norm)
    key, value = heads(attention.to_k(context), attention.k_norm), heads(attention.to_v(context))
    output = reference.attention(query, key, value, mask).transpose(1, 2)
    output = output.flatten(2) if attention.attention_strategy == "concatenate" else output.mean(2)
    return attention.post_attn_norm(attention.to_out(output))


@pytest.mark.parametrize("qk", [False, True])
@pytest.mark.parametrize("post_attn_norm", [False, True])
@pytest.mark.parametrize("attention_strategy", ["concatenate", "average"])
def test_equals_the_loop_with_a_context_of_another_width(qk, post_attn_norm, attention_strategy):
    attention = randomised(qk=qk, post_attn_norm=post_attn_norm, attention_strategy=attention_strategy)
    x, context = inputs()
    torch.testing.assert_close(attention(x, context), naive(attention, x, context), rtol=1e-6, atol=1e-6)


def test_query_and_key_norm_makes_scores_independent_of_their_scale():
    attention = randomised(qk=True)
    x, context = inputs()
    plain = attention(x, context)
    attention.to_q.weight.data *= 50
    torch.testing.assert_close(attention(x, context), plain, rtol=1e-4, atol=1e-4)


def test_the_output_is_normalised_after_the_attention():
    attention = MultiModalCrossAttention(DIM, HEADS, CONTEXT, post_attn_norm=True).eval()
    output = attention(torch.randn(2, 3, DIM), torch.randn(2, 4, CONTEXT))
    torch.testing.assert_close(output.mean(-1), torch.zeros(2, 3), rtol=0, atol=1e-5)
    torch.testing.assert_close(output.std(-1, unbiased=False), torch.ones(2, 3), rtol=1e-2, atol=1e-2)


def test_strategies_project_from_different_widths():
    assert randomised().to_out.weight.shape == (DIM, HEADS * WIDTH)
    assert randomised(attention_strategy="average").to_out.weight.shape == (DIM, WIDTH)


@torch.no_grad()
def test_the_examples_of_the_specification_run():
    dim, heads, context_dim = 1024, 8, 1024
    mask = torch.randint(0, 2, (32, 32), dtype=torch.bool)
    for options in ({}, {"qk": True}, {"mask": mask}):
        attention = MultiModalCrossAttention(dim, heads, context_dim, **options)
        output = attention(torch.randn(1, 32, dim), torch.randn(1, 32, context_dim))
        assert output.shape == torch.Size([1, 32, 1024])
        assert output.isfinite().all()


@pytest.mark.parametrize("shape", [(QUERIES, KEYS), (1, QUERIES, KEYS), (1, HEADS, QUERIES, KEYS)])
def test_the_constructors_mask_and_the_calls_mask_join_by_and(shape):
    torch.manual_seed(1)
    held = torch.rand(shape) > 0.3
    attention = randomised(mask=held)
    x, context = inputs()
    padding = torch.rand(BATCH, KEYS) > 0.3
    held = held.view((1,) * (4 - held.ndim) + shape)
    full = (held & padding[:, None, None]).expand(BATCH, HEADS, QUERIES, KEYS)
    expected = naive(attention, x, context, full)
    expected[~full.any(-1).any(1)] = 0
    torch.testing.assert_close(attention(x, context, padding), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("post_attn_norm", [False, True])
def test_a_blind_query_gets_zero_and_finite_gradients(post_attn_norm):
    mask = torch.ones(QUERIES, KEYS, dtype=torch.bool)
    mask[2] = False
    attention = randomised(mask=mask, post_attn_norm=post_attn_norm)
    x, context = (states.requires_grad_() for states in inputs())
    output = attention(x, context)
    assert output[:, 2].abs().max() == 0 and output[:, 1].abs().min() > 0
    output.square().sum().backward()
    assert all(states.grad.isfinite().all() for states in (x, context, *attention.parameters()))


def test_a_two_axes_mask_of_the_constructor_is_by_query_whatever_the_batch():
    mask = torch.rand(QUERIES, KEYS) > 0.4
    mask[:, 0] = True
    x, context = torch.randn(QUERIES, QUERIES, DIM).double(), torch.randn(QUERIES, KEYS, CONTEXT).double()
    attention = randomised(mask=mask)
    expected = naive(attention, x, context, mask[None, None].expand(QUERIES, HEADS, -1, -1))
    torch.testing.assert_close(attention(x, context), expected, rtol=1e-6, atol=1e-6)


def test_the_mask_moves_with_the_module_and_is_no_part_of_its_state():
    attention = randomised(mask=torch.ones(QUERIES, KEYS, dtype=torch.bool))
    assert copy.deepcopy(attention).to("meta").mask.device.type == "meta"
    assert attention.half().mask.dtype == torch.bool
    assert "mask" not in attention.state_dict()
    randomised().load_state_dict(attention.state_dict())


def test_dropout_acts_in_training_only():
    attention = randomised(dropout=0.5)
    x, context = inputs()
    assert torch.equal(attention(x, context), attention(x, context))
    attention.train()
    assert not torch.allclose(attention(x, context), attention(x, context))


def test_compiles_without_graph_breaks():
    attention = randomised(mask=torch.rand(QUERIES, KEYS) > 0.3, qk=True)
    x, context = inputs()
    compiled = torch.compile(attention, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, context), attention(x, context))


@pytest.mark.parametrize(
    ("x", "context", "message"),
    [
        ((3, 5, 21), (3, 7, 13), r"`x` must have the shape \(batch, tokens, 22\)"),
        ((3, 5, 22), (3, 7, 22), r"`context` must have the shape \(batch, tokens, 13\)"),
        ((3, 5, 22), (2, 7, 13), "`x` has 3 samples, `context` has 2"),
        ((3, 5, 22), (3, 0, 13), "`context` has no tokens"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(x, context, message):
    with pytest.raises(ValueError, match=message):
        MultiModalCrossAttention(DIM, HEADS, CONTEXT)(torch.randn(x), torch.randn(context))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention_strategy": "sum"}, "'concatenate' or 'average', got 'sum'"),
        ({"dropout": 1.5}, "`dropout` must lie in"),
        ({"dim_head": 0}, "`dim_head` must be positive"),
        ({"mask": torch.ones(7)}, "`mask` must have the shape"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MultiModalCrossAttention(DIM, HEADS, CONTEXT, **options)


def test_a_held_mask_that_does_not_fit_the_call_is_refused():
    attention = MultiModalCrossAttention(DIM, HEADS, CONTEXT, mask=torch.ones(QUERIES, KEYS))
    with pytest.raises(ValueError, match="does not fit"):
        attention(torch.randn(1, QUERIES, DIM), torch.randn(1, KEYS + 1, CONTEXT))
