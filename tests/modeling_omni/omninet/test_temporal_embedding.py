"""What must hold of rotation by time and of grouping by time."""

import math

import pytest
import torch

from omnilatent.modeling_omni.omninet.temporal_embedding import ConstrainedRotaryTimeEmbedding, group_by_time

BATCH, TOKENS, DIM, HORIZON, RESOLUTION = 3, 7, 10, 40.0, 0.1


@pytest.fixture
def embedding():
    return ConstrainedRotaryTimeEmbedding(DIM, max_time_horizon=HORIZON, time_resolution=RESOLUTION)


def tokens():
    return torch.randn(BATCH, TOKENS, DIM, dtype=torch.float64)


def test_each_pair_turns_by_its_frequency_times_the_timestamp(embedding):
    x, times = tokens(), torch.rand(BATCH, TOKENS, dtype=torch.float64) * HORIZON
    turned = embedding(x, times)
    half = DIM // 2
    for pair in range(half):
        ratio = pair / (half - 1)  # from half a turn in 40 s to half a turn in 0.1 s
        frequency = (math.pi / HORIZON) ** (1 - ratio) * (math.pi / RESOLUTION) ** ratio
        rotation = torch.polar(torch.ones_like(times), frequency * times)
        before = torch.complex(x[..., pair], x[..., pair + half])
        after = torch.complex(turned[..., pair], turned[..., pair + half])
        torch.testing.assert_close(after, before * rotation, rtol=1e-3, atol=1e-3)


def test_norms_stay_and_time_zero_changes_nothing(embedding):
    x, times = tokens(), torch.rand(BATCH, TOKENS) * HORIZON
    torch.testing.assert_close(embedding(x, times).norm(dim=-1), x.norm(dim=-1), rtol=1e-6, atol=1e-6)
    assert torch.equal(embedding(x, torch.zeros(BATCH, TOKENS)), x)


def test_products_depend_on_the_difference_of_times_only(embedding):
    x, y = tokens(), tokens()
    early, late = torch.full((BATCH, TOKENS), 2.0), torch.full((BATCH, TOKENS), 3.25)
    product = (embedding(x, early) * embedding(y, late)).sum(-1)
    shifted = (embedding(x, early + 16) * embedding(y, late + 16)).sum(-1)
    torch.testing.assert_close(product, shifted, rtol=1e-3, atol=1e-3)


def test_times_a_resolution_apart_and_times_a_horizon_apart_look_different(embedding):
    x = torch.ones(1, 1, DIM)

    def cosine(first, second):
        turned = [embedding(x, torch.tensor([[time]])) for time in (first, second)]
        return torch.cosine_similarity(*turned, dim=-1).item()

    assert cosine(5.0, 5.0 + RESOLUTION) < 0.7
    assert cosine(0.0, HORIZON) < 0.7
    assert cosine(5.0, 5.0 + RESOLUTION / 100) > 0.99


def test_the_slowest_pair_tells_all_times_inside_the_horizon_apart(embedding):
    times = torch.linspace(0, HORIZON, 50)[None]
    turned = embedding(torch.eye(DIM)[0].expand(1, 50, DIM), times)
    assert (turned[0, :, 0].diff() < 0).all()


def test_half_precision_keeps_fine_timing(embedding):
    x, times = torch.randn(BATCH, TOKENS, DIM), torch.full((BATCH, TOKENS), 37.03)
    expected = embedding(x, times)
    torch.testing.assert_close(embedding(x.bfloat16(), times).float(), expected, rtol=0.03, atol=0.05)


@pytest.mark.parametrize("times", [-0.5, 40.5, math.nan])
def test_times_outside_of_the_horizon_are_refused(embedding, times):
    with pytest.raises(ValueError, match=r"must lie in \[0, 40.0\] s"):
        embedding(tokens(), torch.full((BATCH, TOKENS), times))


def test_settings_and_shapes_that_cannot_be_are_refused(embedding):
    with pytest.raises(ValueError, match="must be even, got 7"):
        ConstrainedRotaryTimeEmbedding(7, 10.0)
    with pytest.raises(ValueError, match="0 < `time_resolution` <= `max_time_horizon`"):
        ConstrainedRotaryTimeEmbedding(8, 10.0, time_resolution=11.0)
    with pytest.raises(ValueError, match="expected one for each token"):
        embedding(tokens(), torch.zeros(BATCH, TOKENS - 1))


def streams():
    """Vision at 1 Hz with two tokens a moment, audio at about 3 Hz out of order; values name stream and place."""
    vision_times = torch.tensor([[0.0, 0.0, 1.0, 1.0, 2.0, 2.0]])
    audio_times = torch.tensor([[0.9, 0.3, 0.6, 1.2, 2.4]])
    vision = torch.arange(6.0).view(1, 6, 1)
    audio = 100 + torch.arange(5.0).view(1, 5, 1)
    return [vision, audio], [vision_times, audio_times]


def test_tokens_stand_by_group_then_stream_then_time():
    grouped = group_by_time(*streams(), duration=1.0)
    assert grouped.tokens[0, :, 0].tolist() == [0, 1, 101, 102, 100, 2, 3, 103, 4, 5, 104]
    assert grouped.groups[0].tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert grouped.streams[0].tolist() == [0, 0, 1, 1, 1, 0, 0, 1, 0, 0, 1]
    torch.testing.assert_close(grouped.timestamps[0, 2:5], torch.tensor([0.3, 0.6, 0.9]))


def test_longer_groups_join_what_shorter_ones_part():
    grouped = group_by_time(*streams(), duration=2.0)
    assert grouped.tokens[0, :, 0].tolist() == [0, 1, 2, 3, 101, 102, 100, 103, 4, 5, 104]


def test_padding_goes_to_the_end_and_changes_nothing_before_it():
    tokens, times = streams()
    mask = torch.tensor([[True, True, False, True, True, True]])
    grouped = group_by_time(tokens, times, 1.0, [mask, None])
    assert grouped.tokens[0, grouped.mask[0], 0].tolist() == [0, 1, 101, 102, 100, 3, 103, 4, 5, 104]
    assert grouped.mask[0].tolist() == [True] * 10 + [False]


def test_rows_of_a_batch_are_ordered_each_by_its_own_times():
    tokens, times = streams()
    tokens = [torch.cat([states, states]) for states in tokens]
    times = [torch.cat([values, values.flip(1)]) for values in times]
    grouped = group_by_time(tokens, times, 1.0)
    alone = group_by_time([states[1:] for states in tokens], [values[1:] for values in times], 1.0)
    assert torch.equal(grouped.tokens[1:], alone.tokens)
    assert not torch.equal(grouped.tokens[0], grouped.tokens[1])


def test_groups_that_cannot_be_are_refused():
    tokens, times = streams()
    with pytest.raises(ValueError, match="`duration` must be positive"):
        group_by_time(tokens, times, 0.0)
    with pytest.raises(ValueError, match="There are 2 streams, but timestamps for 1"):
        group_by_time(tokens, times[:1], 1.0)
    with pytest.raises(ValueError, match="expected one for each token"):
        group_by_time(tokens, times[::-1], 1.0)
