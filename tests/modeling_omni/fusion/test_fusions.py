"""Fusions and pooling beside their formulas, written out as loops."""

import pytest
import torch

from omnilatent import AttentionalPooling, FusionConfig
from omnilatent.modeling_omni.fusion import make_fusion
from omnilatent.modeling_omni.fusion.late import GatedSumFusion, LowRankTensorFusion
from omnilatent.modeling_omni.fusion.pooling import pool_first, pool_mean

KINDS = ("concatenation", "co_attention", "bottleneck", "gated_sum", "low_rank_tensor")
MASK = torch.tensor([[True, True, True, False, False], [False, True, True, True, True]])


def make(kind, **settings):
    torch.manual_seed(0)
    words = {"hidden_size": 12, "num_hidden_layers": 2, "attention": {"num_attention_heads": 3}, "rank": 5}
    fusion = make_fusion(FusionConfig(kind=kind, **words | settings)).eval()
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return fusion


def streams():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 5, 12, generator=generator), torch.randn(2, 7, 12, generator=generator)


# --- pooling ----------------------------------------------------------------------------------------------------------


def test_mean_of_what_is_real():
    tokens, _ = streams()
    expected = torch.stack([tokens[0, :3].mean(0), tokens[1, 1:].mean(0)])
    torch.testing.assert_close(pool_mean(tokens, MASK), expected)


def test_first_of_what_is_real():
    tokens, _ = streams()
    assert torch.equal(pool_first(tokens, MASK), torch.stack([tokens[0, 0], tokens[1, 1]]))
    assert torch.equal(pool_first(tokens), tokens[:, 0])


def test_a_query_reads_by_softmax():
    tokens, _ = streams()
    pooling = AttentionalPooling(12, num_attention_heads=1)
    attention = pooling.attention
    expected = []
    for row, real in zip(tokens, MASK):
        query = attention.q_proj(pooling.queries[0, 0])
        keys, values = attention.k_proj(row[real]), attention.v_proj(row[real])
        weights = torch.tensor([float(query @ key) / 12**0.5 for key in keys]).softmax(0)
        expected.append(attention.o_proj(sum(w * value for w, value in zip(weights, values))))
    torch.testing.assert_close(pooling(tokens, MASK), torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_several_queries_give_several_vectors():
    tokens, _ = streams()
    assert AttentionalPooling(12, 3, num_queries=4)(tokens, MASK).shape == (2, 4, 12)


@pytest.mark.parametrize("pool", [pool_mean, pool_first, AttentionalPooling(12, 3)])
def test_where_nothing_is_real_no_nan_comes_out(pool):
    tokens, _ = streams()
    assert pool(tokens, torch.zeros(2, 5, dtype=torch.bool)).isfinite().all()


# --- two vectors ------------------------------------------------------------------------------------------------------


def test_gated_sum_is_its_formula():
    fusion = make("gated_sum")
    assert isinstance(fusion, GatedSumFusion)
    first, second = torch.randn(2, 12), torch.randn(2, 12)
    for a, b, merged in zip(first, second, fusion.merge(first, second)):
        gate = torch.sigmoid(fusion.gate.weight @ torch.cat([a, b]) + fusion.gate.bias)
        left = torch.tanh(fusion.first_projection.weight @ a + fusion.first_projection.bias)
        right = torch.tanh(fusion.second_projection.weight @ b + fusion.second_projection.bias)
        torch.testing.assert_close(merged, gate * left + (1 - gate) * right)


def test_low_rank_fusion_is_a_linear_map_of_the_outer_product():
    """The weight (d, d + 1, d + 1) that the factors stand for, contracted with [x; 1] ⊗ [y; 1]."""
    fusion = make("low_rank_tensor")
    assert isinstance(fusion, LowRankTensorFusion)
    factors = [
        torch.cat([layer.weight, layer.bias.unsqueeze(1)], dim=1).view(5, 12, 13)
        for layer in (fusion.first_factors, fusion.second_factors)
    ]
    weight = torch.einsum("rda,rdb->dab", *factors)
    first, second = torch.randn(2, 12), torch.randn(2, 12)
    one = torch.ones(2, 1)
    outer = torch.einsum("na,nb->nab", torch.cat([first, one], 1), torch.cat([second, one], 1))
    expected = torch.einsum("dab,nab->nd", weight, outer)
    torch.testing.assert_close(fusion.merge(first, second), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["gated_sum", "low_rank_tensor"])
def test_tokens_stand_behind_the_fused_vector_as_they_came(kind):
    first, second = streams()
    fused = make(kind)(first, MASK, second, None)
    assert torch.equal(fused.tokens[:, 1:6], first) and torch.equal(fused.tokens[:, 6:], second)
    assert fused.attention_mask.tolist() == [[True, *row, *[True] * 7] for row in MASK.tolist()]


# --- many tokens ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_masked_changes_nothing(kind):
    first, second = streams()
    fusion, second_mask = make(kind), torch.tensor([[True] * 5 + [False] * 2] * 2)
    before = fusion(first, MASK, second, second_mask)
    real = before.attention_mask
    first, second = first.masked_fill(~MASK.unsqueeze(-1), 9.0), second.masked_fill(~second_mask.unsqueeze(-1), -9.0)
    after = fusion(first, MASK, second, second_mask)
    torch.testing.assert_close(after.tokens[real], before.tokens[real])


@pytest.mark.parametrize("kind", ["concatenation", "co_attention", "bottleneck"])
def test_each_stream_hears_of_the_other(kind):
    first, second = streams()
    fusion = make(kind)
    before = fusion(first, None, second, None).tokens
    after = fusion(first, None, second.flip(0), None).tokens
    offset = 4 if kind == "bottleneck" else 0
    assert (before - after)[:, offset : offset + 5].abs().amax(dim=(0, 2)).min() > 1e-4


def test_streams_exchange_through_the_bottleneck_alone():
    """In one layer a stream hears nothing yet of the other: its tokens reach the bottleneck, which comes later."""
    first, second = streams()
    one, two = make("bottleneck", num_hidden_layers=1), make("bottleneck", num_hidden_layers=2)
    own = [fusion(first, None, second, None).tokens[:, 4:9] for fusion in (one, two)]
    other = [fusion(first, None, second.flip(0), None).tokens[:, 4:9] for fusion in (one, two)]
    torch.testing.assert_close(own[0], other[0])
    assert (own[1] - other[1]).abs().max() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["linear", "performer"])
def test_other_attentions_respect_masks_too(kind, attention):
    first, second = streams()
    fusion = make(kind, attention={"num_attention_heads": 3, "kind": attention})
    before = fusion(first, MASK, second, None)
    real = before.attention_mask
    after = fusion(first.masked_fill(~MASK.unsqueeze(-1), 9.0), MASK, second, None)
    torch.testing.assert_close(after.tokens[real], before.tokens[real], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_is_trained(kind):
    first, second = streams()
    fusion = make(kind)
    fusion(first, MASK, second, None).tokens.pow(2).sum().backward()
    assert [name for name, parameter in fusion.named_parameters() if parameter.grad is None] == []
