"""Each kind of attention against loops in float64: every cell of the table passes or raises its documented error."""

import functools
import sys
from pathlib import Path

import pytest
import torch
from transformers.cache_utils import DynamicCache

from omnilatent import AttentionConfig
from omnilatent.configuration.configuration_attention import POSITIONS, check_position
from omnilatent.modeling_omni.layers import (
    MultiAxisRotary,
    RelativeOffsets,
    RMSNorm,
    make_attention,
    make_attention_mask,
)
from omnilatent.modeling_omni.layers.kernels import get_kernel

sys.path.append(str(Path(__file__).parents[2]))
import reference  # noqa: E402

BATCH, TOKENS, CONTEXT, WIDTH, HEADS, GROUPS = 2, 19, 7, 24, 6, 2
WINDOW, GLOBAL = 3, 2

# title -> (settings, kernel of multi_head)
KINDS = {
    "multi_head, sdpa": ({"kind": "multi_head"}, "sdpa"),
    "multi_head, eager": ({"kind": "multi_head"}, "eager"),
    "multi_head, flex": ({"kind": "multi_head"}, "flex_attention"),
    "sparse": ({"kind": "sparse", "window_size": WINDOW, "num_global_tokens": GLOBAL}, None),
    "sparse, window only": ({"kind": "sparse", "window_size": WINDOW, "num_global_tokens": 0}, None),
    "linear, elu": ({"kind": "linear"}, None),
    "linear, relu": ({"kind": "linear", "feature_map": "relu"}, None),
    "performer": ({"kind": "performer", "num_random_features": 13}, None),
}
PLAIN = [title for title in KINDS if "flex" not in title]  # flex attention has to compile for each shape on a CPU
DISTINCT = ["multi_head, sdpa", "sparse", "linear, elu", "performer"]  # for what takes seconds
UNCACHED = [title for title in PLAIN if "multi_head" not in title]


def build(title, is_causal=False, context_size=None, dropout=0.0, **settings):
    torch.manual_seed(0)
    kind, kernel = KINDS[title]
    settings = {"num_key_value_heads": GROUPS, "qk_norm": True, **kind, **settings}
    config = AttentionConfig(num_attention_heads=HEADS, dropout=dropout, **settings)
    attention = make_attention(
        config, WIDTH, context_size=context_size, is_causal=is_causal, layer_idx=0, kernel=kernel or "sdpa"
    ).double()
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return attention.eval()


def tokens(length=TOKENS, width=WIDTH, batch=BATCH):
    return torch.randn(batch, length, width, dtype=torch.float64)


def padding(length=TOKENS):
    mask = torch.ones(BATCH, length, dtype=torch.long)
    mask[0, :2], mask[1, length - 4 :] = 0, 0
    return mask


def naive(title, attention, x, context=None, mask=None, bias=None, positions=None):
    """The attention with its own weights in float64, by the loops of `reference`."""
    context = x if context is None else context

    def heads(linear, norm, states):
        states = states.double() @ linear.weight.double().T
        if linear.bias is not None:
            states = states + linear.bias.double()
        states = states.unflatten(-1, (-1, attention.head_dim))
        if isinstance(norm, RMSNorm):
            states = reference.rms_norm(states, norm.weight, norm.eps)
        return states.transpose(1, 2)

    query = heads(attention.q_proj, attention.q_norm, x)
    key = heads(attention.k_proj, attention.k_norm, context)
    value = heads(attention.v_proj, None, context)
    if positions is not None:
        query, key = (reference.rotate(states, positions, 100.0) for states in (query, key))
    seen = torch.ones(len(x), 1, x.shape[1], context.shape[1], dtype=torch.bool)
    if attention.is_causal:
        seen &= torch.ones(seen.shape[-2:], dtype=torch.bool).tril()
    if mask is not None:
        seen &= mask.bool()[:, None, None]
    if title.startswith("sparse"):
        count = attention.kernel_options["num_global_tokens"]
        seen &= reference.sparse_pattern(x.shape[1], WINDOW, count, attention.is_causal)
    if title.startswith(("multi_head", "sparse")):
        output = reference.attention(query, key, value, seen, bias)
    elif title == "performer":
        features = functools.partial(reference.random_features, projection=attention.feature_map.projection)
        output = reference.kernel_attention(query, key, value, features, seen)
    else:
        features = reference.elu_features if title.endswith("elu") and "relu" not in title else reference.relu_features
        output = reference.kernel_attention(query, key, value, features, seen)
    output = output.transpose(1, 2).flatten(2) @ attention.o_proj.weight.double().T
    return output if attention.o_proj.bias is None else output + attention.o_proj.bias.double()


def check(found, expected, tolerance=1e-6):
    assert (found.double() - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("is_causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("heads", [1, GROUPS, HEADS])
@pytest.mark.parametrize("title", PLAIN)
def test_padding_causality_and_grouped_heads_equal_the_loop(title, heads, is_causal):
    attention, x = build(title, is_causal, num_key_value_heads=heads), tokens()
    mask = make_attention_mask(attention, x, padding())
    found = attention(x, attention_mask=mask)[0]
    seen = padding().bool()  # of a query at padding nothing is promised
    check(found[seen], naive(title, attention, x, mask=padding())[seen])
    check(attention(x, attention_mask=make_attention_mask(attention, x))[0], naive(title, attention, x))


@pytest.mark.parametrize("title", PLAIN)
def test_gradients_equal_those_of_finite_differences(title):
    attention, x = build(title, is_causal=True), tokens(length=9, batch=1).requires_grad_()
    mask = make_attention_mask(attention, x, torch.tensor([[0, 1, 1, 1, 1, 1, 1, 1, 0]]))
    weight = torch.randn(1, 9, WIDTH, dtype=torch.float64)
    inside = torch.tensor([0, 1, 1, 1, 1, 1, 1, 1, 0]).bool()[None, :, None]

    def loss(x):
        return (attention(x, attention_mask=mask)[0] * weight * inside).sum()

    (gradient,) = torch.autograd.grad(loss(x), x)
    direction = torch.randn_like(x)
    with torch.no_grad():
        difference = (loss(x + 1e-4 * direction) - loss(x - 1e-4 * direction)) / 2e-4
    torch.testing.assert_close((gradient * direction).sum(), difference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("title", PLAIN)
def test_padding_changes_nothing_whatever_it_holds(title):
    attention, x = build(title), tokens()
    alone = attention(x[1:, :-4], attention_mask=make_attention_mask(attention, x[1:, :-4]))[0]
    x[1, -4:] *= 1e3
    padded = attention(x, attention_mask=make_attention_mask(attention, x, padding()))[0]
    check(padded[1:, :-4], alone)


@pytest.mark.parametrize("title", PLAIN)
def test_a_batch_without_any_key_gives_zero(title):
    attention, x = build(title, bias=False), tokens()
    mask = padding()
    mask[1] = 0
    output = attention(x, attention_mask=make_attention_mask(attention, x, mask))[0]
    assert torch.equal(output[1], torch.zeros_like(output[1]))
    assert output[0].abs().max() > 0


@pytest.mark.parametrize("title", PLAIN)
def test_the_future_is_not_seen(title):
    attention, x = build(title, is_causal=True), tokens()
    mask = make_attention_mask(attention, x)
    before = attention(x, attention_mask=mask)[0]
    x[:, 11:] += 3.0
    after = attention(x, attention_mask=mask)[0]
    check(after[:, :11], before[:, :11])
    assert (after[:, 11:] - before[:, 11:]).abs().amin(dim=-1).max() > 1e-3


@pytest.mark.parametrize("title", PLAIN)
def test_dropout_leaves_the_mean_or_is_refused(title):
    if not title.startswith(("multi_head", "sparse")):
        with pytest.raises(
            ValueError, match="`dropout` must be 0 for attention of kind '(linear|performer)'.*got 0.3"
        ):
            build(title, dropout=0.3)
        with pytest.raises(ValueError, match="kernel '(linear|performer)' makes no weights to drop.*got 0.3"):
            attention = build(title)
            attention.dropout = 0.3
            attention.train()(tokens())
        return
    attention, x = build(title, dropout=0.3), tokens(batch=1)
    torch.testing.assert_close(attention(x)[0], naive(title, attention, x), rtol=1e-6, atol=1e-6)
    runs = attention.train()(x.expand(2000, -1, -1))[0]
    error = runs.mean(dim=0) - naive(title, attention, x)[0]
    assert runs.std(dim=0).min() > 0
    assert (error.abs() < 5 * runs.std(dim=0) / 2000**0.5).all()


@pytest.mark.parametrize("title", PLAIN)
def test_a_context_of_another_length_or_its_error(title):
    attention, x, context = build(title, context_size=11), tokens(), tokens(CONTEXT, 11)
    mask = make_attention_mask(attention, x, padding(CONTEXT), context=context)
    if title.startswith("sparse"):
        with pytest.raises(ValueError, match="'sparse' has windows.*got 7 and 19.*choose 'multi_head'"):
            attention(x, context=context, attention_mask=mask)
        return
    found = attention(x, context=context, attention_mask=mask)[0]
    check(found, naive(title, attention, x, context, padding(CONTEXT)))


@pytest.mark.parametrize("title", PLAIN)
def test_a_cache_gives_what_there_is_without_one_or_its_error(title):
    attention, x, cache = build(title, is_causal=True), tokens(), DynamicCache()
    whole = attention(x, attention_mask=make_attention_mask(attention, x))[0]
    prompt = attention(x[:, :-1], attention_mask=make_attention_mask(attention, x[:, :-1]), past_key_values=cache)[0]
    check(prompt, whole[:, :-1])
    last = x[:, -1:]
    mask = make_attention_mask(attention, last, past_length=TOKENS - 1)
    if title in UNCACHED:
        with pytest.raises(ValueError, match="KV cache"):
            attention(last, attention_mask=mask, past_key_values=cache)
        return
    check(attention(last, attention_mask=mask, past_key_values=cache)[0], whole[:, -1:])


@pytest.mark.parametrize("is_causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("title", PLAIN)
def test_bfloat16_stays_near_float64(title, is_causal):
    attention, x = build(title, is_causal).bfloat16(), tokens().bfloat16()
    found = attention(x, attention_mask=make_attention_mask(attention, x, padding()))[0]
    assert found.dtype == torch.bfloat16
    seen = padding().bool()
    expected = naive(title, attention, x, mask=padding())[seen]
    assert (found[seen].double() - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("title", PLAIN)
def test_autocast_stays_near_float64(title):
    attention, x = build(title).float(), tokens().float()
    with torch.autocast("cpu", torch.bfloat16):
        found = attention(x, attention_mask=make_attention_mask(attention, x, padding()))[0]
    seen = padding().bool()
    expected = naive(title, attention, x, mask=padding())[seen]
    assert (found[seen].double() - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("is_causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("title", DISTINCT)
def test_a_compiled_graph_is_whole_and_equal(title, is_causal):
    attention, x = build(title, is_causal), tokens().requires_grad_()
    mask = make_attention_mask(attention, x, padding())
    torch.compiler.reset()
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
    found, expected = compiled(x, attention_mask=mask)[0], attention(x, attention_mask=mask)[0]
    seen = padding().bool()
    torch.testing.assert_close(found[seen], expected[seen], rtol=1e-6, atol=1e-6)
    gradients = [torch.autograd.grad(output[seen].square().sum(), x)[0] for output in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("title", KINDS)
def test_inductor_gives_the_same(title):
    attention, x = build(title).float(), tokens().float()
    mask = make_attention_mask(attention, x, padding())
    torch.compiler.reset()
    with torch.no_grad():
        found = torch.compile(attention, fullgraph=True)(x, attention_mask=mask)[0]
    check(found, naive(title, attention, x, mask=padding()), 1e-4)


class WithMask(torch.nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, x, mask):
        return self.attention(x, attention_mask=make_attention_mask(self.attention, x, mask))[0]


@pytest.mark.skipif(
    torch.__version__ < "2.14", reason="torch 2.11 cannot prove min(4 n, 12 n) = 4 n, for sdpa either; 2.14 can"
)
@pytest.mark.parametrize("is_causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("title", DISTINCT)
def test_a_program_exported_for_any_length_is_equal(title, is_causal):
    module, length = WithMask(build(title, is_causal)), torch.export.Dim("length", min=8, max=4096)
    program = torch.export.export(
        module, (tokens(37), padding(37).bool()), dynamic_shapes=({1: length}, {1: length}), strict=False
    ).module()
    for count in (37, TOKENS, 150):
        x, mask = tokens(count), padding(count).bool()
        torch.testing.assert_close(program(x, mask)[mask], module(x, mask)[mask], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("title", DISTINCT)
def test_a_program_exported_for_one_length_is_equal(title):
    module, x, mask = WithMask(build(title, is_causal=True)), tokens(37), padding(37).bool()
    program = torch.export.export(module, (x, mask), strict=False).module()
    x = tokens(37)
    torch.testing.assert_close(program(x, mask)[mask], module(x, mask)[mask], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("title", PLAIN)
def test_rotary_positions_and_a_relative_bias_or_its_error(title):
    attention, x = build(title, head_dim=8), tokens()
    places = torch.arange(TOKENS).expand(1, BATCH, -1)
    rotary = MultiAxisRotary(8, theta=100.0)(places, torch.float64)
    check(attention(x, rotary=rotary)[0], naive(title, attention, x, positions=places), 1e-4)
    offsets = RelativeOffsets(HEADS, num_buckets=8, max_distance=11, init_std=1.0).double()
    bias = offsets(TOKENS)
    if title.startswith(("multi_head", "sparse")):
        expected = naive(title, attention, x, bias=bias.dense()[0].detach())
        check(attention(x, position_bias=bias)[0], expected)
        return
    with pytest.raises(ValueError, match="makes no scores that a `position_bias` could join"):
        attention(x, position_bias=bias)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("kind", ["multi_head", "sparse", "linear", "performer"])
def test_a_config_has_each_position_or_says_why_not(kind, position):
    config = AttentionConfig(kind=kind)
    if position == "relative" and kind in ("linear", "performer"):
        with pytest.raises(
            ValueError, match=f"'relative' is added to scores, and attention of kind '{kind}' makes none"
        ):
            check_position(config, position)
    else:
        check_position(config, position)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"kind": "dense"}, "kind"),
        ({"num_attention_heads": 6, "num_key_value_heads": 4}, "6 is not divisible by `num_key_value_heads` 4"),
        ({"dropout": 1.0}, "`dropout` must lie in"),
        ({"window_size": 5}, "`window_size` is a setting of attention of kind 'sparse', but `kind` is 'multi_head'"),
        ({"kind": "sparse", "num_random_features": 5}, "`num_random_features` is a setting.*'performer'"),
        ({"kind": "sparse", "window_size": 0}, "`window_size` must be positive, got 0"),
        ({"kind": "sparse", "num_global_tokens": -1}, "`num_global_tokens` must not be negative, got -1"),
        ({"kind": "linear", "feature_map": "gelu"}, "feature_map"),
        ({"windowsize": 5}, "no setting 'windowsize'. Did you mean 'window_size'"),
    ],
)
def test_a_config_refuses(settings, message):
    with pytest.raises(Exception, match=message):
        AttentionConfig(**settings)


@pytest.mark.parametrize("title", PLAIN)
def test_a_config_survives_saving(title, tmp_path):
    config = AttentionConfig(**KINDS[title][0])
    config.save_pretrained(tmp_path)
    assert AttentionConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


@pytest.mark.parametrize("title", UNCACHED)
def test_masks_that_a_kernel_would_drop_are_refused(title):
    attention, x = build(title), tokens()
    with pytest.raises(ValueError, match=r"takes a mask of the keys of shape \(2, 19\).*got \(2, 1, 19, 19\)"):
        attention(x, attention_mask=torch.ones(2, 1, TOKENS, TOKENS, dtype=torch.bool))
    from omnilatent.modeling_omni.layers.kernels import get_mask_builder
    from omnilatent.modeling_omni.layers.masks import segment_mask

    with pytest.raises(ValueError, match="no word for the mask predicate"):
        segments = segment_mask(torch.zeros(2, TOKENS))
        get_mask_builder(attention.kernel_name)(2, TOKENS, TOKENS, mask_function=segments)


def test_performer_without_its_features_is_refused():
    states = torch.randn(1, 2, 5, 8)
    with pytest.raises(ValueError, match="'performer' needs `feature_map=RandomFeatures"):
        get_kernel("performer")(torch.nn.Module(), states, states, states, None)
