"""Positions that are added to tokens, and the relative bias for any length."""

import math

import pytest
import torch
from transformers.models.t5.modeling_t5 import T5Attention

from omnilatent.modeling_omni.layers import Attention, LearnedPositions, RelativeOffsets, SinusoidalPositions


def test_learned_positions_are_rows_of_their_table():
    positions, x = LearnedPositions(11, 6), torch.randn(2, 5, 6)
    torch.testing.assert_close(positions(x) - x, positions.embedding.weight[:5].expand(2, -1, -1))
    place = torch.tensor([[3, 1, 0, 10, 2]])
    torch.testing.assert_close(positions(x, place) - x, positions.embedding.weight[place].expand(2, -1, -1))
    with pytest.raises(ValueError, match="11 learned positions, got 12 tokens.*max_position_embeddings"):
        positions(torch.randn(1, 12, 6))


def test_sinusoidal_positions_are_those_of_the_paper():
    found = SinusoidalPositions(6)(torch.zeros(1, 700, 6))[0]
    for place in (0, 1, 17, 699):
        for i in range(3):
            angle = place / 10000 ** (2 * i / 6)
            assert found[place, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-4)
            assert found[place, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-4)
    with pytest.raises(ValueError, match="must be even, got 7"):
        SinusoidalPositions(7)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("sizes", [(32, 128), (8, 11), (6, 40)])
def test_buckets_are_those_of_t5(sizes, is_causal):
    offsets = torch.arange(-300, 300)
    found = RelativeOffsets(3, *sizes, is_causal=is_causal).bucket(offsets)
    # T5 counts from the query to the key, and has its sides the other way round
    expected = T5Attention._relative_position_bucket(-offsets, not is_causal, *sizes)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("lengths", [(7, None, 0), (7, 5, 0), (1, None, 6), (3, 19, 4)])
def test_a_bias_has_the_bucket_of_each_offset(lengths):
    queries, keys, past = lengths
    offsets = RelativeOffsets(3, 8, 5, init_std=1.0)
    bias = offsets(*lengths).dense()
    keys = past + queries if keys is None else keys
    assert bias.shape == (1, 3, queries, keys)
    for q in range(queries):
        for k in range(keys):
            bucket = offsets.bucket(torch.tensor(q + past - k))
            assert torch.equal(bias[0, :, q, k], offsets.table[bucket])


@pytest.mark.parametrize("kernel", ["eager", "sdpa", "relative"])
def test_kernels_take_the_bias(kernel):
    torch.manual_seed(0)
    attention, offsets = Attention(24, 3, kernel=kernel).double(), RelativeOffsets(3, 8, 5, init_std=1.0).double()
    x = torch.randn(2, 9, 24).double()
    found = attention(x, position_bias=offsets(9))[0]
    attention.kernel = "eager"
    torch.testing.assert_close(found, attention(x, position_bias=offsets(9).dense())[0], rtol=1e-6, atol=1e-6)
    assert not torch.allclose(found, attention(x)[0], atol=1e-3)


@pytest.mark.parametrize("sizes", [(7, 128), (2, 128), (32, 8)])
def test_sizes_that_leave_no_buckets_are_refused(sizes):
    with pytest.raises(ValueError, match=f"got {sizes[0]} and {sizes[1]}"):
        RelativeOffsets(3, *sizes)
