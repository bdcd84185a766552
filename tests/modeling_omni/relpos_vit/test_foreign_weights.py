"""Weights from timm and from transformers' BEiT give the logits that they give there."""

import pytest
import torch
from transformers import BeitConfig, BeitForImageClassification, ViTConfig, ViTForImageClassification

from omnilatent import RelPosViTForImageClassification, convert_beit, convert_timm


def randomised(model, std=0.2):
    """All parameters random, so that no zero and no small scale hides a mistake."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return model.eval()


@torch.no_grad()
def assert_same_logits(theirs, ours, pixels):
    expected = theirs(pixels)
    expected = expected if isinstance(expected, torch.Tensor) else expected.logits
    assert expected.std() > 0.1
    torch.testing.assert_close(ours(pixels).logits, expected, rtol=1e-5, atol=1e-5)


def timm_model(**words):
    timm = pytest.importorskip("timm")
    sizes = {"img_size": (24, 40), "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 7}
    return timm.models.vision_transformer_relpos.VisionTransformerRelPos(**{**sizes, **words})


@pytest.mark.parametrize(
    "words",
    [
        {"rel_pos_type": "bias", "qkv_bias": True},
        {"rel_pos_type": "bias", "class_token": True, "global_pool": "token"},
        {"rel_pos_type": "bias", "shared_rel_pos": True, "class_token": True},
        {"rel_pos_type": "mlp", "qkv_bias": False, "fc_norm": True},
        {"rel_pos_type": "mlp", "class_token": True, "fc_norm": True, "rel_pos_dim": 11},
        {"rel_pos_type": "mlp_swin", "shared_rel_pos": True, "init_values": None},
        {"rel_pos_type": "mlp_swin", "class_token": True, "global_pool": "token"},
    ],
)
def test_timm_models_keep_their_logits(words):
    theirs = randomised(timm_model(**words))
    assert_same_logits(theirs, convert_timm(theirs), torch.randn(2, 3, 24, 40))


def test_timm_models_with_norms_after_branches_keep_their_logits():
    timm = pytest.importorskip("timm")
    theirs = randomised(timm_model(block_fn=timm.models.vision_transformer_relpos.ResPostRelPosBlock))
    ours = convert_timm(theirs)
    assert ours.config.norm_position == "after"
    assert_same_logits(theirs, ours, torch.randn(2, 3, 24, 40))


@pytest.mark.parametrize("name", ["vit_relpos_small_patch16_224", "vit_relpos_medium_patch16_cls_224"])
def test_timm_models_by_name_keep_their_logits(name):
    timm = pytest.importorskip("timm")
    theirs = randomised(timm.create_model(name, depth=2, num_classes=5, img_size=64), std=0.1)
    assert_same_logits(theirs, convert_timm(theirs), torch.randn(1, 3, 64, 64))


def test_timm_models_without_a_head_give_the_embedding():
    theirs = randomised(timm_model(num_classes=0))
    ours = convert_timm(theirs)
    assert ours.config.num_labels == 0
    assert_same_logits(theirs, ours, torch.randn(2, 3, 24, 40))


def test_timm_models_keep_their_type_and_drop_path():
    theirs = timm_model(drop_path_rate=0.2).half()
    ours = convert_timm(theirs)
    assert {weight.dtype for weight in ours.state_dict().values()} == {torch.float16} == {ours.dtype}
    assert ours.config.drop_path_rate == pytest.approx(0.2)
    for our_layer, block in zip(ours.relpos_vit.layers, theirs.blocks):
        assert our_layer.drop_path.p == pytest.approx(getattr(block.drop_path1, "drop_prob", 0.0))


def test_timm_models_with_parts_that_ours_lacks_are_refused():
    with pytest.raises(ValueError, match="q_norm"):
        convert_timm(timm_model(qk_norm=True))
    with pytest.raises(ValueError, match="global_pool"):
        convert_timm(timm_model(global_pool=""))


def beit(**words):
    sizes = {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        "image_size": (32, 32),
        "patch_size": 8,
        "num_labels": 7,
    }
    return randomised(BeitForImageClassification(BeitConfig(**{**sizes, **words})))


@pytest.mark.parametrize(
    "words",
    [
        {"use_relative_position_bias": True},
        {"use_relative_position_bias": True, "use_mean_pooling": False, "layer_scale_init_value": 0.0},
        {"use_shared_relative_position_bias": True},
        {"use_shared_relative_position_bias": True, "use_relative_position_bias": True},
        {"use_relative_position_bias": True, "use_absolute_position_embeddings": True},
        {"use_absolute_position_embeddings": True},
    ],
)
def test_beit_keeps_its_logits(words):
    theirs = beit(**words)
    pixels = torch.randn(2, 3, *theirs.config.image_size)
    assert_same_logits(theirs, convert_beit(theirs), pixels)


def test_beit_keeps_its_labels():
    theirs = beit(num_labels=2, use_relative_position_bias=True)
    theirs.config.id2label, theirs.config.label2id = {0: "cat", 1: "dog"}, {"cat": 0, "dog": 1}
    assert convert_beit(theirs).config.id2label == {0: "cat", 1: "dog"}


def test_beit_keeps_its_type_and_drop_path():
    ours = convert_beit(beit(use_relative_position_bias=True, drop_path_rate=0.3).to(torch.bfloat16))
    assert {weight.dtype for weight in ours.state_dict().values()} == {torch.bfloat16} == {ours.dtype}
    assert [layer.drop_path.p for layer in ours.relpos_vit.layers] == [0.0, 0.3]


def test_overrides_are_settings_of_the_new_model(tmp_path):
    theirs = beit(use_relative_position_bias=True)
    ours = convert_beit(theirs, drop_path_rate=0.1)
    assert ours.config.drop_path_rate == 0.1
    ours.save_pretrained(tmp_path)
    again = RelPosViTForImageClassification.from_pretrained(tmp_path)
    assert_same_logits(theirs, again, torch.randn(2, 3, 32, 32))


def test_other_models_are_refused():
    other = ViTForImageClassification(ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
    with pytest.raises(ValueError, match="ViTForImageClassification"):
        convert_timm(other)
    with pytest.raises(ValueError, match="ViTForImageClassification"):
        convert_beit(other)
