"""What makes linear and sparse attention cheap, and that it changes no number."""

import pytest
import torch

from omnilatent.modeling_omni.layers import linear_attention as linear
from omnilatent.modeling_omni.layers.feature_maps import EluFeatures, RandomFeatures, ReluFeatures, orthogonal_normal
from omnilatent.modeling_omni.layers.flex_blocks import BLOCK, flex_attention, make_block_mask
from omnilatent.modeling_omni.layers.gathered_blocks import gathered_attention
from omnilatent.modeling_omni.layers.sparse_attention import sparse_attention

HEADS, GROUPS, WIDTH = 6, 2, 8


def states(length, dtype=torch.float64, batch=2):
    torch.manual_seed(0)
    return [
        torch.randn(batch, count, length, WIDTH, dtype=dtype).requires_grad_() for count in (HEADS, GROUPS, GROUPS)
    ]


def kept_bytes(function, length):
    """Bytes of the distinct tensors that autograd keeps, beyond queries, keys and values."""
    given, kept = states(length, torch.float32), {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        function(*given)
    for tensor in given:
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(kept.values())


@pytest.mark.parametrize("is_causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("make", [EluFeatures, ReluFeatures, lambda: RandomFeatures(WIDTH, 11).double()])
def test_segments_and_chunks_change_neither_output_nor_gradients(make, is_causal, monkeypatch):
    feature_map, given = make(), states(45)
    there = torch.rand(2, 45) > 0.2
    weight = torch.randn(2, HEADS, 45, WIDTH, dtype=torch.float64)

    def run():
        output = linear.linear_attention(*given, feature_map, there, is_causal)
        return [output, *torch.autograd.grad(output, given, weight)]

    whole = run()
    monkeypatch.setattr(linear, "CHUNK", 4)
    monkeypatch.setattr(linear, "SEGMENT_NUMBERS", 100)
    for found, expected in zip(run(), whole):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("is_causal", [False, True], ids=["all", "causal"])
def test_only_sums_are_kept_of_linear_attention(is_causal):
    def attend(query, key, value):
        return linear.linear_attention(query, key, value, EluFeatures(), is_causal=is_causal)

    # nothing but the states between segments: no features, no scores
    assert kept_bytes(attend, 4000) < 2 * 2 * HEADS * (WIDTH + 2) * WIDTH * 4


@pytest.mark.parametrize("is_causal", [False, True], ids=["all", "causal"])
def test_sparse_attention_keeps_memory_linear_in_the_length(is_causal):
    def attend(query, key, value):
        return sparse_attention(query, key, value, window_size=16, num_global_tokens=2, is_causal=is_causal)

    short, long = kept_bytes(attend, 1000), kept_bytes(attend, 4000)
    assert 3 < long / short < 4.5


def test_random_features_estimate_softmax():
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 50, 16, dtype=torch.float64) for _ in range(3))
    query, key = query / 2, key / 2  # the variance grows with exp(|q + k|²)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    errors = []
    for count in (16, 256, 4096):
        found = linear.linear_attention(query, key, value, RandomFeatures(16, count).double())
        errors.append(((found - expected).norm() / expected.norm()).item())
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.1


def test_random_features_are_orthogonal_in_blocks_and_of_normal_length():
    torch.manual_seed(0)
    rows = orthogonal_normal(20000, 8)
    block = rows[:8] / rows[:8].norm(dim=1, keepdim=True)
    torch.testing.assert_close(block @ block.T, torch.eye(8), rtol=0, atol=1e-5)
    torch.testing.assert_close(rows.T @ rows / len(rows), torch.eye(8), rtol=0, atol=0.03)
    assert rows.norm(dim=1).pow(2).var() == pytest.approx(16, rel=0.1)  # of chi squared with 8 degrees of freedom


def test_random_features_survive_large_keys():
    query, key, value = states(40, torch.float32)
    output = linear.linear_attention(query * 5, key * 30, value, RandomFeatures(WIDTH, 64), is_causal=False)
    assert output.isfinite().all()
    assert output.abs().max() <= value.abs().max() * 1.001  # a mean of values


# title -> length of keys, of those that are not there, and which of 12 are not there in each of two samples
MASKED_KEYS = {
    "a sample without any": (1.0, 1.0, range(0), range(12)),
    "padding that fills segments": (1.0, 1.0, range(9), range(2)),
    "small ones among large ones": (100.0, 0.1, range(3), range(10, 12)),
}


@pytest.mark.parametrize("is_causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("title", MASKED_KEYS)
def test_masked_keys_have_no_part_in_gradients_of_random_features(title, is_causal, monkeypatch):
    monkeypatch.setattr(linear, "CHUNK", 4)
    monkeypatch.setattr(linear, "SEGMENT_NUMBERS", 1)  # segments of one chunk
    length, length_of_masked, *masked = MASKED_KEYS[title]
    there = torch.tensor([[place not in places for place in range(12)] for places in masked])[:, None, :, None]
    feature_map, (query, key, value) = RandomFeatures(WIDTH, 11).double(), states(12)
    key = torch.nn.functional.normalize(key, dim=-1) * torch.where(there, length, length_of_masked)
    given = [query, key.detach().requires_grad_(), value]
    output = linear.linear_attention(*given, feature_map, there[:, 0, :, 0], is_causal)
    found = torch.autograd.grad((output * there).sum(), given)  # of the real queries
    for row, real in enumerate(there[:, 0, :, 0]):
        gradients = [gradient[row : row + 1] for gradient in found]
        alone = [tensor[row : row + 1, :, real].detach().requires_grad_() for tensor in given]
        assert all((gradient[:, :, ~real] == 0).all() for gradient in gradients)
        if real.any():
            output = linear.linear_attention(*alone, feature_map, None, is_causal)
            for gradient, expected in zip(gradients, torch.autograd.grad(output.sum(), alone)):
                torch.testing.assert_close(gradient[:, :, real], expected, rtol=1e-7, atol=1e-9)


def test_half_precision_sums_do_not_overflow():
    length = 3000
    query, key = (torch.full((1, 1, length, WIDTH), 5.0, dtype=torch.float16) for _ in range(2))
    value = torch.full((1, 1, length, WIDTH), 100.0, dtype=torch.float16)  # their sum of 6 * 3000 * 100 has no half
    for is_causal in (False, True):
        output = linear.linear_attention(query, key, value, EluFeatures(), is_causal=is_causal)
        torch.testing.assert_close(output, value)


def pattern(length, window, count, is_causal, there):
    place = torch.arange(length)
    seen = ((place[:, None] - place).abs() <= window) | (place < count)
    seen = seen & (place <= place[:, None]) if is_causal else seen
    return seen[None] if there is None else seen & there[:, None]


@pytest.mark.parametrize("is_causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("length", [100, 128, 1000])
def test_flex_blocks_hold_the_pattern(length, padded, is_causal):
    torch.manual_seed(0)
    there = torch.rand(2, length) > 1 / 300 if padded else None
    for window in (5, 128, 300):
        for count in (0, 3, 130):
            count = min(count, length)
            blocks = make_block_mask(length, window, count, is_causal, torch.device("cpu"), there)
            visited = blocks.to_dense()[:, 0].bool()
            whole = torch.zeros_like(visited)
            for row in range(visited.shape[1]):
                for sample in range(len(visited)):
                    number = blocks.full_kv_num_blocks[sample, 0, row]
                    whole[sample, row, blocks.full_kv_indices[sample, 0, row, :number].long()] = True
            beyond = -length % BLOCK
            seen = pattern(length, window, count, is_causal, there)
            seen = torch.nn.functional.pad(seen, (0, beyond, 0, beyond))
            tiles = seen.unflatten(2, (-1, BLOCK)).unflatten(1, (-1, BLOCK)).transpose(2, 3)
            some = tiles.flatten(3).any(dim=-1)
            assert not (some & ~visited).any()
            assert padded or torch.equal(some, visited)
            real = torch.nn.functional.pad(torch.ones(length, 1, dtype=torch.bool), (0, 0, 0, beyond))
            assert not (whole & ~(tiles | ~real.view(-1, 1, BLOCK, 1)).flatten(3).all(dim=-1)).any()
            place = torch.arange(length)
            sample = torch.arange(len(seen))[:, None, None]
            mask = blocks.mask_mod(sample, 0, place[:, None], place)
            assert torch.equal(mask.expand(len(seen), -1, -1), seen[:, :length, :length])


@pytest.mark.slow
@pytest.mark.parametrize("is_causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("padded", [False, True])
def test_compiled_flex_blocks_equal_gathered_blocks(padded, is_causal):
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, heads, 700, 32) for heads in (4, 2, 2))
    there = torch.arange(700) < torch.tensor([[700], [300]]) if padded else None
    with torch.no_grad():
        found = flex_attention(query, key, value, 100, 3, there, is_causal)
    torch.testing.assert_close(found, gathered_attention(query, key, value, 100, 3, there, is_causal))


@pytest.mark.gpu
@pytest.mark.parametrize("is_causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("padded", [False, True])
def test_on_the_gpu_flex_and_gathered_blocks_agree_with_gradients(padded, is_causal):
    torch.manual_seed(0)
    given = [torch.randn(2, heads, 1500, 64, device="cuda").bfloat16() for heads in (4, 2, 2)]
    there = (torch.arange(1500) < torch.tensor([[1500], [700]])).cuda() if padded else None
    weight = torch.randn(2, 4, 1500, 64, device="cuda")

    def run(dtype):
        tensors = [tensor.to(dtype).requires_grad_() for tensor in given]
        output = sparse_attention(*tensors, 100, 3, there, is_causal)
        return [output, *torch.autograd.grad(output, tensors, weight.to(dtype))]

    # flex attention takes no float64, and leaves it to gathered blocks
    for found, expected in zip(run(torch.bfloat16), run(torch.float64)):
        assert (found.double() - expected).norm() < 0.01 * expected.norm()
