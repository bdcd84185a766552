"""Relative position bias: lookups, gradients, tables for other sizes, and the way to the kernel."""

import sys
from pathlib import Path

import pytest
import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from omnilatent import RelativePositionBias
from omnilatent.modeling_omni.layers import Attention, kernels
from omnilatent.modeling_omni.layers.relative_bias import (
    LOOKUP_KERNELS,
    RelativeBias,
    RelativePositionTable,
    bias_for_kernel,
)

sys.path.append(str(Path(__file__).parents[2]))
import reference  # noqa: E402

HEADS = 3
GRIDS = [
    ((7,), (7,), False),
    ((5,), (3,), False),
    ((2, 3), (2, 3), False),
    ((2, 3), (2, 3), True),
    ((3, 2), (1, 5), False),
    ((3, 2), (4, 5), True),
    ((2, 3, 2), (2, 3, 2), True),
    ((2, 1, 3), (1, 4, 2), False),
]


def random_table(*args, **kwargs):
    torch.manual_seed(0)
    table = RelativePositionTable(HEADS, *args, **kwargs).double()
    torch.nn.init.normal_(table.relative_position_bias_table)
    return table


def looked_up(table, index):
    """bias[h, q, k] one by one."""
    bias = torch.zeros(HEADS, *index.shape, dtype=torch.float64)
    for h in range(HEADS):
        for q in range(index.shape[0]):
            for k in range(index.shape[1]):
                bias[h, q, k] = table[index[q, k], h]
    return bias


@pytest.mark.parametrize(("queries", "keys", "class_token"), GRIDS)
def test_the_dense_bias_is_looked_up_in_the_table(queries, keys, class_token):
    bias = random_table(queries, keys, class_token).bias()
    torch.testing.assert_close(bias.dense()[0], looked_up(bias.table.detach(), bias.index), rtol=0, atol=0)


@pytest.mark.parametrize(("queries", "keys", "class_token"), GRIDS)
def test_the_tables_gradient_sums_over_all_pairs_that_read_an_entry(queries, keys, class_token):
    module = random_table(queries, keys, class_token)
    bias = module.bias()
    weight = torch.randn_like(bias.dense())
    (bias.dense() * weight).sum().backward()
    expected = torch.zeros_like(module.relative_position_bias_table)
    index = bias.index
    for q in range(index.shape[0]):
        for k in range(index.shape[1]):
            expected[index[q, k]] += weight[0, :, q, k]
    torch.testing.assert_close(module.relative_position_bias_table.grad, expected)


def test_each_sample_may_have_a_table_of_its_own():
    table = torch.randn(4, 15, HEADS, dtype=torch.float64)
    bias = RelativeBias(table, (2, 3), (2, 3)).dense()
    for b in range(4):
        torch.testing.assert_close(bias[b], RelativeBias(table[b], (2, 3), (2, 3)).dense()[0], rtol=0, atol=0)


# --- tables for other sizes ----------------------------------------------------------------------------------------


def test_at_its_own_size_the_table_is_the_parameter_itself():
    module = random_table((3, 5))
    assert module.bias((3, 5)).table is module.relative_position_bias_table


def test_samples_of_the_tables_own_size_in_a_batch_read_its_very_values():
    module = random_table((3, 5), class_token=True)
    table = module.bias((3, 5), sizes=torch.tensor([[3, 5], [2, 5]])).table
    torch.testing.assert_close(table[0], module.relative_position_bias_table, rtol=0, atol=0)


@pytest.mark.parametrize("size", [(5, 3), (9, 14), (1, 7), (4, 7)])
def test_no_offset_and_the_largest_offsets_keep_their_values(size):
    module = random_table((4, 7))
    own = module.relative_position_bias_table.detach().unflatten(0, (7, 13))
    new = module.bias(size).table.detach().unflatten(0, (2 * size[0] - 1, 2 * size[1] - 1))
    torch.testing.assert_close(new[size[0] - 1, size[1] - 1], own[3, 6])
    if min(size) > 1:
        torch.testing.assert_close(new[0, -1], own[0, -1])
        torch.testing.assert_close(new[-1, -1], own[-1, -1])


def test_a_bias_linear_in_the_offset_stays_linear():
    module = random_table((5,))
    offsets = torch.arange(-4, 5).double()
    with torch.no_grad():
        module.relative_position_bias_table.copy_(offsets[:, None] * torch.tensor([1.0, -0.5, 2.0]))
    table = module.bias((9,)).table
    expected = torch.arange(-8, 9).double() / 2  # as a share of the row
    torch.testing.assert_close(
        table, expected[:, None] * torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64), rtol=1e-6, atol=1e-6
    )


def test_queries_and_keys_are_resampled_each_by_its_own_size():
    module = random_table((3,), (5,))
    table = module.bias((5,), (9,)).table.detach()  # offsets -8 ... 4, twice as dense
    assert table.shape == (13, HEADS)
    own = module.relative_position_bias_table.detach()  # offsets -4 ... 2
    torch.testing.assert_close(table[::2], own, rtol=1e-6, atol=1e-6)


def test_entries_of_the_class_token_are_left_alone():
    module = random_table((3, 2), class_token=True)
    torch.testing.assert_close(
        module.bias((4, 5)).table[-3:], module.relative_position_bias_table[-3:], rtol=0, atol=0
    )


def test_a_sample_in_a_padded_grid_has_the_bias_it_has_alone():
    module = random_table((3, 5), class_token=True)
    sizes = torch.tensor([[4, 2], [1, 6], [3, 5], [4, 6]])
    bias = module.bias((4, 6), sizes=sizes).dense()
    for b, (height, width) in enumerate(sizes.tolist()):
        inside = torch.zeros(4, 6, dtype=torch.bool)
        inside[:height, :width] = True
        tokens = torch.cat([torch.tensor([True]), inside.flatten()])
        alone = module.bias((height, width)).dense()[0]
        torch.testing.assert_close(bias[b][:, tokens][:, :, tokens], alone, rtol=1e-6, atol=1e-6)


def test_a_resampled_table_has_gradients():
    module = random_table((3, 5), class_token=True)
    module.bias((4, 4)).dense().square().sum().backward()
    assert (module.relative_position_bias_table.grad != 0).all()


def test_a_resized_module_has_the_index_of_its_new_size():
    rpb = RelativePositionBias(HEADS, window_size=(3, 5), class_token=True)
    expected = rpb.bias((2, 4)).dense()[0]
    rpb.resize((2, 4))
    torch.testing.assert_close(rpb(), expected, rtol=0, atol=0)
    assert rpb.relative_position_index.shape == (9, 9)
    assert rpb.relative_position_bias_table.shape == (rpb.num_relative_positions, HEADS) == (3 * 7 + 3, HEADS)


# --- the specification's module ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "tokens", "entries"),
    [
        ({"window_size": (7, 5), "bias_type": "2d"}, 35, 13 * 9),
        ({"seq_len": 11, "bias_type": "1d"}, 11, 21),
        ({"window_size": (2, 3, 4), "bias_type": "3d"}, 24, 3 * 5 * 7),
        ({"window_size": (7, 5), "bias_type": "2d", "class_token": True}, 36, 13 * 9 + 3),
    ],
)
def test_attributes_and_bias_have_the_specifications_shapes(arguments, tokens, entries):
    rpb = RelativePositionBias(num_heads=HEADS, **arguments)
    assert rpb.num_relative_positions == entries
    assert rpb.relative_position_bias_table.shape == (entries, HEADS)
    assert rpb.relative_position_index.shape == (tokens, tokens)
    assert rpb().shape == (HEADS, tokens, tokens)
    assert "relative_position_index" in dict(rpb.named_buffers())
    expected = rpb.relative_position_bias_table[rpb.relative_position_index].permute(2, 0, 1)
    torch.testing.assert_close(rpb(), expected, rtol=0, atol=0)


def test_queries_and_keys_may_differ():
    rpb = RelativePositionBias(HEADS, window_size=(2, 3), key_size=(4, 5))
    assert rpb().shape == (HEADS, 6, 20)
    assert RelativePositionBias(HEADS, seq_len=4, bias_type="1d", key_size=7)().shape == (HEADS, 4, 7)


def test_the_table_starts_with_the_given_deviation():
    rpb = RelativePositionBias(16, window_size=(14, 14), init_std=0.5)
    assert abs(rpb.relative_position_bias_table.std().item() - 0.5) < 0.02
    assert (RelativePositionBias(2, window_size=(3, 3), init_std=0.0)() == 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window_size": (7, 7), "bias_type": "4d"}, "'4d': choose one of 1d, 2d, 3d"),
        ({"bias_type": "2d"}, "needs `window_size`"),
        ({"bias_type": "1d"}, "needs `seq_len`"),
        ({"window_size": (7, 7), "bias_type": "1d"}, "needs `seq_len` and no `window_size`"),
        ({"window_size": (7, 7), "seq_len": 49, "bias_type": "2d"}, "no `seq_len`"),
        ({"window_size": (7,), "bias_type": "2d"}, "2 whole sizes"),
        ({"window_size": (7, 0), "bias_type": "2d"}, "at least 1"),
        ({"window_size": 7}, "`window_size` must be 2 whole sizes of at least 1, got 7"),
        ({"window_size": (7.0, 7.0)}, r"`window_size` must be 2 whole sizes of at least 1, got \(7.0, 7.0\)"),
        ({"seq_len": 7.0, "bias_type": "1d"}, "`seq_len` must be 1 whole"),
        ({"window_size": (7, 7), "key_size": 49}, "`key_size` must be 2 whole"),
        ({"window_size": (7, 7), "key_size": (7.0, 7.0)}, "`key_size` must be 2 whole"),
        ({"window_size": (7, 7), "num_heads": 0}, "num_heads"),
        ({"window_size": (7, 7), "init_std": float("nan")}, "init_std"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RelativePositionBias(**{"num_heads": 2, **arguments})


# --- the way to the kernel -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_adds_the_bias_to_the_scores(kernel, masked):
    torch.manual_seed(1)
    attention = Attention(12, HEADS, kernel=kernel).double().eval()
    bias = random_table((2, 3), class_token=True).bias()
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    mask = torch.rand(2, 1, 7, 7) > 0.4 if masked else None
    if masked:
        mask[..., 0] = True
    heads = [attention._split_heads(project(x)) for project in (attention.q_proj, attention.k_proj, attention.v_proj)]
    expected = reference.attention(*heads, mask, looked_up(bias.table.detach(), bias.index))
    expected = attention.o_proj(expected.transpose(1, 2).flatten(2))
    found = attention(x, attention_mask=mask, position_bias=bias)[0]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_a_lookup_kernel_gets_the_table_and_others_get_it_dense(monkeypatch):
    seen = {}

    def lookup(module, query, key, value, attention_mask, position_bias=None, **kwargs):
        seen["bias"] = position_bias
        return kernels.eager_attention(module, query, key, value, attention_mask, position_bias=position_bias.dense())

    ALL_ATTENTION_FUNCTIONS.register("test_lookup", lookup)
    ALL_MASK_ATTENTION_FUNCTIONS.register("test_lookup", sdpa_mask)
    monkeypatch.setattr(
        "omnilatent.modeling_omni.layers.relative_bias.LOOKUP_KERNELS", {*LOOKUP_KERNELS, "test_lookup"}
    )
    bias = random_table((2, 3)).bias()
    x = torch.randn(2, 6, 12, dtype=torch.float64)
    torch.manual_seed(0)
    attention = Attention(12, HEADS, kernel="test_lookup").double()
    found = attention(x, position_bias=bias)[0]
    assert seen["bias"] is bias
    attention.kernel = "eager"
    torch.testing.assert_close(found, attention(x, position_bias=bias)[0])


def test_flex_attention_gets_a_bias_for_each_sample():
    query = torch.randn(5, HEADS, 6, 4)
    bias = bias_for_kernel(RelativeBias(torch.randn(15, HEADS), (2, 3), (2, 3)), "flex_attention", query)
    assert bias.shape == (5, HEADS, 6, 6)


def test_a_dense_bias_has_the_queries_type():
    query = torch.randn(1, HEADS, 6, 4, dtype=torch.bfloat16)
    bias = bias_for_kernel(RelativeBias(torch.randn(15, HEADS), (2, 3), (2, 3)), "sdpa", query)
    assert bias.dtype == torch.bfloat16
