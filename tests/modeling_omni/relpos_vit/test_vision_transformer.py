"""The modules of the relative position ViT's specification."""

import sys
from pathlib import Path

import pytest
import torch

from omnilatent import (
    MultiHeadAttention,
    PatchEmbedding,
    RelativePositionBias,
    ScaledDotProductAttention,
    TransformerBlock,
    VisionTransformer,
)

sys.path.append(str(Path(__file__).parents[2]))
import reference  # noqa: E402

BATCH, HEADS, TOKENS, WIDTH = 2, 3, 10, 5
WINDOW = (2, 5)


def randomised(module):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return module.double().eval()


def states():
    torch.manual_seed(1)
    return torch.randn(3, BATCH, HEADS, TOKENS, WIDTH, dtype=torch.float64)


# --- scaled dot-product attention ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
def test_scaled_dot_product_attention_equals_the_loop(scale, biased, need_weights):
    query, key, value = states()
    bias = torch.randn(HEADS, TOKENS, TOKENS, dtype=torch.float64) if biased else None
    output, weights = ScaledDotProductAttention(scale)(query, key, value, bias, need_weights)
    expected = reference.attention(query, key, value, None, bias, scaling=None if scale else 1.0)
    torch.testing.assert_close(output, expected, rtol=1e-6, atol=1e-6)
    if need_weights:
        torch.testing.assert_close(weights @ value, expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]), rtol=1e-6, atol=1e-6)
    else:
        assert weights is None


def test_dropout_acts_in_training_only():
    query, key, value = states()
    attention = ScaledDotProductAttention(dropout=0.5)
    assert (attention(query, key, value)[1] == 0).any()
    assert (attention.eval()(query, key, value)[1] > 0).all()


@pytest.mark.parametrize("shape", [(TOKENS, TOKENS), (HEADS, TOKENS, TOKENS - 1), (HEADS + 1, TOKENS, TOKENS)])
def test_a_bias_of_another_shape_is_refused(shape):
    query, key, value = states()
    with pytest.raises(ValueError, match="does not fit"):
        ScaledDotProductAttention()(query, key, value, torch.zeros(shape))


# --- multi-head attention ------------------------------------------------------------------------------------------


def attention(**words):
    words = {"use_relative_position": True, "rpb_kwargs": {"num_heads": HEADS, "window_size": WINDOW}, **words}
    return randomised(MultiHeadAttention(HEADS * WIDTH, HEADS, **words))


def test_multi_head_attention_equals_the_loop():
    module = attention()
    x = torch.randn(BATCH, TOKENS, HEADS * WIDTH, dtype=torch.float64)
    parts = module.qkv(x).chunk(3, dim=-1)
    heads = [part.unflatten(-1, (HEADS, WIDTH)).transpose(1, 2) for part in parts]
    rpb = module.relative_position_bias
    bias = rpb.relative_position_bias_table[rpb.relative_position_index].permute(2, 0, 1).detach()
    expected = module.proj(reference.attention(*heads, bias=bias).transpose(1, 2).flatten(2))
    torch.testing.assert_close(module(x), expected, rtol=1e-6, atol=1e-6)
    weights = module.get_attention_weights(x)
    found = module.proj((weights @ heads[2]).transpose(1, 2).flatten(2))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)  # weights come from scores in float32


def test_attributes_are_the_specifications():
    module = attention()
    assert (module.embed_dim, module.num_heads, module.head_dim) == (HEADS * WIDTH, HEADS, WIDTH)
    assert module.qkv.weight.shape == (3 * HEADS * WIDTH, HEADS * WIDTH)
    assert isinstance(module.attention, ScaledDotProductAttention)
    assert isinstance(module.relative_position_bias, RelativePositionBias)
    assert MultiHeadAttention(12, 3).relative_position_bias is None


def test_every_parameter_gets_a_gradient():
    module = attention()
    module(torch.randn(BATCH, TOKENS, HEADS * WIDTH, dtype=torch.float64)).square().sum().backward()
    keys = slice(HEADS * WIDTH, 2 * HEADS * WIDTH)  # adding one number to all scores of a query changes nothing
    assert module.qkv.bias.grad[keys].abs().max() < 1e-9
    for name, parameter in module.named_parameters():
        assert parameter.grad.abs().max() > 1e-6, name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"rpb_kwargs": None}, "rpb_kwargs"),
        ({"rpb_kwargs": {"num_heads": 5, "window_size": WINDOW}}, "5 heads"),
        ({"rpb_kwargs": {"window_size": WINDOW, "bias_type": "polar"}}, "polar"),
        ({"rpb_kwargs": {"window_size": WINDOW, "key_size": (2, 2)}}, "key_size"),
    ],
)
def test_a_bias_that_does_not_fit_is_refused_at_construction(words, message):
    with pytest.raises(ValueError, match=message):
        attention(**words)


def test_tokens_that_are_not_the_windows_are_refused():
    with pytest.raises(ValueError, match="10 tokens, got 9"):
        attention()(torch.randn(1, 9, HEADS * WIDTH, dtype=torch.float64))
    with pytest.raises(ValueError, match="not divisible"):
        MultiHeadAttention(10, 3)


def test_a_batch_of_no_samples_is_refused():
    with pytest.raises(ValueError, match="`x` has no samples"):
        attention()(torch.zeros(0, TOKENS, HEADS * WIDTH, dtype=torch.float64))
    with pytest.raises(ValueError, match="`x` has no samples"):
        model()(torch.zeros(0, 3, 4, 10))


# --- block, patches and the whole ----------------------------------------------------------------------------------


def test_a_block_keeps_the_shape_and_adds_to_its_input():
    block = TransformerBlock(24, 4, 2.0, use_relative_position=True, rpb_kwargs={"window_size": WINDOW})
    x = torch.randn(BATCH, TOKENS, 24)
    assert block(x).shape == x.shape
    torch.nn.init.zeros_(block.attn.proj.weight), torch.nn.init.zeros_(block.attn.proj.bias)
    torch.nn.init.zeros_(block.mlp[-1].weight), torch.nn.init.zeros_(block.mlp[-1].bias)
    torch.testing.assert_close(block(x), x, rtol=0, atol=0)


def test_patches_are_those_of_a_strided_convolution():
    embedding = PatchEmbedding(img_size=(6, 20), patch_size=(2, 5), in_channels=3, embed_dim=7)
    images = torch.randn(2, 3, 6, 20)
    weight = embedding.projection.weight.unflatten(1, (3, 2, 5))
    expected = torch.nn.functional.conv2d(images, weight, embedding.projection.bias, stride=(2, 5))
    torch.testing.assert_close(embedding(images), expected.flatten(2).transpose(1, 2), rtol=1e-5, atol=1e-5)
    assert (embedding.num_patches, embedding.grid_size) == (12, (3, 4))


def test_images_that_patches_do_not_divide_are_refused_at_construction():
    with pytest.raises(ValueError, match="cannot be cut"):
        PatchEmbedding(img_size=30, patch_size=16, in_channels=3, embed_dim=8)


@pytest.mark.parametrize("shape", [(2, 3, 32, 48), (2, 4, 32, 32), (3, 32, 32)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="Expected"):
        PatchEmbedding(img_size=32, patch_size=16, in_channels=3, embed_dim=8)(torch.zeros(shape))


def model(**words):
    sizes = {"img_size": (4, 10), "patch_size": 2, "in_channels": 3, "num_classes": 11, "embed_dim": 12, "depth": 2}
    return VisionTransformer(**{**sizes, "num_heads": 3, **words})


RELATIVE = {"use_relative_position": True, "rpb_kwargs": {"num_heads": 3, "window_size": WINDOW, "bias_type": "2d"}}


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"class_token": True},
        RELATIVE,
        {"use_relative_position": True, "rpb_kwargs": {"seq_len": TOKENS, "bias_type": "1d"}},
        {
            "use_relative_position": True,
            "rpb_kwargs": {"window_size": WINDOW, "class_token": True},
            "class_token": True,
        },
    ],
)
def test_a_model_classifies_and_learns_with_every_parameter(words):
    vit = model(**words)
    logits = vit(torch.randn(2, 3, 4, 10))
    assert logits.shape == (2, 11)
    logits.square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in vit.parameters())


def test_the_specifications_example():
    vit = VisionTransformer(
        img_size=224,
        patch_size=16,
        in_channels=3,
        num_classes=1000,
        embed_dim=768,
        depth=1,
        num_heads=12,
        use_relative_position=True,
        rpb_kwargs={"num_heads": 12, "window_size": (14, 14), "bias_type": "2d"},
    )
    assert vit(torch.randn(1, 3, 224, 224)).shape == (1, 1000)


def test_the_bias_tells_where_patches_are():
    """Without any position a mean over patches cannot tell their order; with the bias it can."""
    images = torch.randn(2, 3, 4, 10)
    patches = images.unflatten(2, (2, 2)).unflatten(4, (5, 2))
    swapped = patches[:, :, [1, 0]].flatten(4).flatten(2, 3)
    vit = randomised(model(**RELATIVE)).float()
    assert (vit(images) - vit(swapped)).abs().max() > 1e-3
    for block in vit.blocks:
        torch.nn.init.zeros_(block.attn.relative_position_bias.relative_position_bias_table)
    torch.testing.assert_close(vit(images), vit(swapped), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"img_size": (4, 11)}, "cannot be cut"),
        ({**RELATIVE, "rpb_kwargs": {"window_size": (5, 2)}}, r"\(5, 2\)"),
        ({**RELATIVE, "rpb_kwargs": {"seq_len": 11, "bias_type": "1d"}}, "11 and 10 tokens"),
        ({**RELATIVE, "class_token": True}, "no entries for a class token"),
        ({**RELATIVE, "rpb_kwargs": {"window_size": WINDOW, "class_token": True}}, "has entries for a class token"),
        ({"use_relative_position": True}, "rpb_kwargs"),
        ({"num_heads": 5}, "not divisible"),
        ({"dropout": 1.5}, "dropout"),
    ],
)
def test_what_does_not_fit_is_refused_at_construction(words, message):
    with pytest.raises(ValueError, match=message):
        model(**words)


def test_weights_are_saved_and_loaded_without_the_index(tmp_path):
    vit = model(**RELATIVE)
    assert not any("index" in name for name in vit.state_dict())
    other = model(**RELATIVE)
    other.load_state_dict(vit.state_dict())
    images = torch.randn(1, 3, 4, 10)
    torch.testing.assert_close(other(images), vit(images), rtol=0, atol=1e-6)
