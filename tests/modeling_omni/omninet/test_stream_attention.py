"""The specification's two attentions against a loop over queries in float64."""

import sys
from pathlib import Path

import pytest
import torch

from omnilatent import CrossAttention, SelfAttention
from omnilatent.modeling_omni.layers.masks import as_attention_mask

sys.path.append(str(Path(__file__).parents[2]))
import reference  # noqa: E402

BATCH, QUERIES, KEYS, DIM, HEADS = 3, 5, 7, 24, 6


def randomise(module):
    torch.manual_seed(0)
    for parameter in module.parameters():
        parameter.data = torch.randn_like(parameter) * 0.3
    return module.double().eval()


def tokens(length, batch=BATCH):
    return torch.randn(batch, length, DIM, dtype=torch.float64)


def heads(states, attention):
    return states.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)


def naive_cross(attention, query, key, value, mask=None):
    projected = attention.q_proj(query), attention.k_proj(key), attention.v_proj(value)
    output = reference.attention(*(heads(states, attention) for states in projected), mask)
    return attention.out_proj(output.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"num_key_value_heads": 2}, {"head_dim": 3}])
def test_cross_attention_equals_the_loop_with_keys_apart_from_values(options):
    attention = randomise(CrossAttention(DIM, HEADS, **options))
    query, key, value = tokens(QUERIES), tokens(KEYS), tokens(KEYS)
    expected = naive_cross(attention, query, key, value)
    torch.testing.assert_close(attention(query, key, value), expected, rtol=1e-6, atol=1e-6)


def test_self_attention_equals_the_loop():
    attention = randomise(SelfAttention(DIM, HEADS))
    x = tokens(QUERIES)
    states = [heads(part, attention) for part in attention.qkv_proj(x).chunk(3, dim=-1)]
    expected = attention.out_proj(reference.attention(*states).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x), expected, rtol=1e-6, atol=1e-6)


def test_attributes_are_those_of_the_specification():
    cross, own = CrossAttention(dim=DIM, num_heads=HEADS, dropout=0.2), SelfAttention(DIM, HEADS, bias=False)
    assert (cross.dim, cross.num_heads, cross.head_dim, cross.scale) == (DIM, HEADS, 4, 4**-0.5)
    assert cross.dropout.p == 0.2
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        assert getattr(cross, name).weight.shape == (DIM, DIM)
    assert own.qkv_proj.weight.shape == (3 * DIM, DIM)
    assert own.qkv_proj.bias is None and own.out_proj.bias is None


def test_dropout_acts_on_weights_in_training_only():
    attention = randomise(CrossAttention(DIM, HEADS, dropout=0.5))
    query, key = tokens(QUERIES), tokens(KEYS)
    assert torch.equal(attention(query, key, key), attention(query, key, key))
    attention.train()
    assert not torch.allclose(attention(query, key, key), attention(query, key, key))


@pytest.mark.parametrize(
    ("shape", "full"),
    [
        ((BATCH, KEYS), (BATCH, 1, 1, KEYS)),
        ((QUERIES, KEYS), (1, 1, QUERIES, KEYS)),
        ((BATCH, QUERIES, KEYS), (BATCH, 1, QUERIES, KEYS)),
        ((BATCH, HEADS, QUERIES, KEYS), (BATCH, HEADS, QUERIES, KEYS)),
        ((1, HEADS, 1, KEYS), (1, HEADS, 1, KEYS)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.bool, torch.long, torch.float32])
def test_masks_of_all_usual_shapes_and_types_say_where_to_attend(shape, full, dtype):
    attention = randomise(CrossAttention(DIM, HEADS))
    query, key, value = tokens(QUERIES), tokens(KEYS), tokens(KEYS)
    mask = torch.rand(shape) > 0.4
    expanded = mask.view(full).expand(BATCH, HEADS, QUERIES, KEYS)
    expected = naive_cross(attention, query, key, value, expanded)
    blind = ~expanded.any(-1).any(1)  # (B, Q)
    expected[blind] = 0
    torch.testing.assert_close(attention(query, key, value, mask.to(dtype)), expected, rtol=1e-6, atol=1e-6)


def test_a_blind_query_gets_zero_and_finite_gradients():
    attention = randomise(CrossAttention(DIM, HEADS))
    query, key = tokens(QUERIES).requires_grad_(), tokens(KEYS).requires_grad_()
    mask = torch.ones(BATCH, 1, QUERIES, KEYS, dtype=torch.bool)
    mask[1, 0, 3] = False
    output = attention(query, key, key, mask)
    assert torch.equal(output[1, 3], torch.zeros(DIM, dtype=torch.float64))
    output.square().sum().backward()
    gradients = [query.grad, key.grad, *(parameter.grad for parameter in attention.parameters())]
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(("width", "number"), [(24, 5), (24, 0), (24, -2), (0, 4)])
@pytest.mark.parametrize("attention", [CrossAttention, SelfAttention])
@pytest.mark.parametrize("error", [AssertionError, ValueError])
def test_heads_that_do_not_divide_are_both_kinds_of_error(attention, width, number, error):
    with pytest.raises(error, match=f"dim {width} is not divisible by num_heads {number}"):
        attention(width, number)


def test_key_value_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="6 query heads cannot share 4 key and value heads"):
        CrossAttention(DIM, HEADS, num_key_value_heads=4)


@pytest.mark.parametrize(
    ("query", "key", "value", "message"),
    [
        ((3, 5, 24), (2, 7, 24), (2, 7, 24), "`key` has 2 samples, `query` has 3"),
        ((3, 5, 24), (3, 7, 20), (3, 7, 24), r"`key` must have the shape \(batch, tokens, 24\), got \(3, 7, 20\)"),
        ((3, 5, 24), (3, 7, 24), (3, 6, 24), "7 keys but 6 values"),
        ((3, 5, 24), (3, 0, 24), (3, 0, 24), "`key` has no tokens"),
        ((5, 24), (3, 7, 24), (3, 7, 24), "`query` must have the shape"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(query, key, value, message):
    with pytest.raises(ValueError, match=message):
        CrossAttention(DIM, HEADS)(torch.randn(query), torch.randn(key), torch.randn(value))


@pytest.mark.parametrize("shape", [(7,), (2, 7), (4, 7), (3, 5, 6), (3, 4, 5, 7), (3, 6, 7, 5), (3, 6, 5, 1)])
def test_masks_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match="does not fit 3 samples, 6 heads, 5 queries and 7 keys"):
        CrossAttention(DIM, HEADS)(torch.randn(3, 5, 24), *[torch.randn(3, 7, 24)] * 2, torch.ones(shape))


def test_a_mask_that_may_mean_two_things_is_refused():
    with pytest.raises(ValueError, match="may be \\(batch, keys\\) or \\(queries, keys\\)"):
        as_attention_mask(torch.ones(4, 9), batch=4, heads=2, queries=4, keys=9)


def test_additive_masks_are_refused():
    mask = torch.zeros(BATCH, 1, QUERIES, KEYS).masked_fill(torch.rand(BATCH, 1, QUERIES, KEYS) > 0.5, -torch.inf)
    with pytest.raises(ValueError, match="True or 1 where to attend"):
        as_attention_mask(mask, BATCH, HEADS, QUERIES, KEYS)
