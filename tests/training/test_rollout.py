"""Attention rollout, and the pictures of `omnilatent visualize`."""

import pytest
import torch
from PIL import Image
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    ViTImageProcessor,
)

from omnilatent import RelPosViTConfig, RelPosViTForImageClassification, RelPosViTModel
from omnilatent.training import attention_rollout, cli, patch_shares

pyplot = pytest.importorskip("matplotlib.pyplot")
pyplot.switch_backend("Agg")


def test_rollout_is_the_product_written_out_by_hand():
    first = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]]])  # mean (1/2, 1/2), (1/2, 1/2)
    second = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]]])
    # (W + I) / 2: first (3/4, 1/4), (1/4, 3/4); second (1/2, 1/2), (0, 1). The last layer stands on the left.
    torch.testing.assert_close(attention_rollout([first]), torch.tensor([[[0.75, 0.25], [0.25, 0.75]]]))
    torch.testing.assert_close(attention_rollout([first, second]), torch.tensor([[[0.5, 0.5], [0.25, 0.75]]]))
    torch.testing.assert_close(attention_rollout([second, first]), torch.tensor([[[0.375, 0.625], [0.125, 0.875]]]))


def test_rollout_follows_all_paths_through_the_layers():
    """The share of a token is the sum over all paths to it, each the product of its steps."""
    layers = torch.rand(3, 2, 5, 4, 4, generator=torch.Generator().manual_seed(0)).softmax(-1)
    found = attention_rollout(list(layers))
    step = layers.mean(dim=2) / 2 + torch.eye(4) / 2
    for begin, end in ((0, 3), (2, 1)):
        paths = sum(
            step[2, 1, end, i] * step[1, 1, i, j] * step[0, 1, j, begin] for i in range(4) for j in range(4)
        )  # fmt: skip
        torch.testing.assert_close(found[1, end, begin], paths)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 4))


def test_token_that_sees_nothing_keeps_itself():
    weights = torch.tensor([[[[0.0, 0.0], [0.5, 0.5]]]])
    torch.testing.assert_close(attention_rollout([weights])[0, 0], torch.tensor([1.0, 0.0]))


def test_shares_of_patches_are_those_of_the_embedding():
    rollout = torch.arange(49.0).view(1, 7, 7)
    shares = patch_shares(rollout, (2, 3))
    assert shares.tolist() == [[[1, 2, 3], [4, 5, 6]]]
    mean = patch_shares(rollout, (2, 3), "mean")
    assert mean[0, 1, 0] == (11 + 18 + 25 + 32 + 39 + 46) / 6
    assert patch_shares(rollout[:, 1:, 1:], (2, 3)).equal(mean)
    assert patch_shares(rollout, (3, 1, 2)).tolist() == [[[[1, 2]], [[3, 4]], [[5, 6]]]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: attention_rollout(()), '"eager"'),
        (lambda: attention_rollout(None), '"eager"'),
        (lambda: attention_rollout([None, None]), '"eager"'),
        (lambda: attention_rollout([torch.rand(1, 2, 4, 4), torch.rand(1, 2, 5, 5)]), "as many tokens"),
        (lambda: attention_rollout([torch.rand(1, 2, 4, 5)]), "queries that are keys"),
        (lambda: patch_shares(torch.rand(1, 6, 6), (2, 4)), "6 tokens are not 2 x 4"),
        (lambda: patch_shares(torch.rand(1, 6, 6), (2, 2, 2)), "6 tokens are not 2 x 2 x 2"),
        (lambda: patch_shares(torch.rand(1, 6, 6), (2, 3), "cls"), "'cls'"),
    ],
)
def test_what_has_no_rollout_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- the command


@pytest.fixture
def picture(tmp_path):
    Image.radial_gradient("L").resize((60, 40)).convert("RGB").save(tmp_path / "picture.jpg")
    return tmp_path / "picture.jpg"


def visualize(capfd, *argv):
    return (cli.main(["visualize", *map(str, argv)]), *capfd.readouterr())


@pytest.mark.parametrize(
    ("model", "tables"),
    [
        (RelPosViTForImageClassification(RelPosViTConfig.tiny(num_labels=3)), 2),
        (
            RelPosViTForImageClassification(
                RelPosViTConfig.tiny(share_position_bias=True, use_class_token=True, pooling="cls", bias_type="1d")
            ),
            1,
        ),
        (
            BeitForImageClassification(
                BeitConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8)
            ),
            0,
        ),
    ],
    ids=["relpos", "class token", "beit"],
)
def test_a_picture_of_each_layer_and_table_is_drawn(model, tables, tmp_path, picture, capfd):
    model.save_pretrained(tmp_path / "model")
    height, width = model.config.image_size if model.config.model_type == "relpos_vit" else (32, 32)
    ViTImageProcessor(size={"height": height, "width": width}).save_pretrained(tmp_path / "model")
    code, out, err = visualize(capfd, "--model", tmp_path / "model", "--image", picture, "--out", tmp_path / "out")
    assert code == 0, err
    assert "LABEL_" in out and f"{3 + tables} pictures" in out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    expected = {"rollout.png", "attention_layer_00.png", "attention_layer_01.png"}
    expected |= {0: set(), 1: {"bias_table.png"}, 2: {f"bias_table_layer_0{number}.png" for number in range(2)}}[
        tables
    ]
    assert names == expected
    for name in names:
        with Image.open(tmp_path / "out" / name) as drawn:
            assert len(drawn.convert("RGB").getcolors(1 << 20)) > 20
    assert pyplot.get_fignums() == []


def test_what_cannot_be_drawn_is_told_in_one_line(tmp_path, picture, capfd):
    swin = SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4)
    SwinForImageClassification(swin).save_pretrained(tmp_path / "swin")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "swin")
    code, _, err = visualize(capfd, "--model", tmp_path / "swin", "--image", picture)
    assert code == 1 and "as many tokens in all" in err.splitlines()[-1]
    (tmp_path / "broken.png").write_text("no picture")
    code, _, err = visualize(capfd, "--model", tmp_path / "swin", "--image", tmp_path / "broken.png")
    assert code == 1 and "broken.png" in err.splitlines()[-1]


def test_model_without_a_trained_head_is_drawn_and_not_believed(tmp_path, picture, capfd):
    RelPosViTModel(RelPosViTConfig.tiny()).save_pretrained(tmp_path / "model")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "model")
    code, out, err = visualize(capfd, "--model", tmp_path / "model", "--image", picture, "--out", tmp_path / "out")
    assert code == 0, err
    assert "no trained head" in out and "%" not in out and (tmp_path / "out" / "rollout.png").is_file()


@pytest.mark.parametrize(
    "settings", [{"num_channels": 1}, {"num_frames": 4, "tubelet_size": 2, "image_size": (32, 32)}]
)
def test_only_models_of_rgb_images_are_drawn(settings, tmp_path, picture, capfd):
    RelPosViTForImageClassification(RelPosViTConfig.tiny(**settings)).save_pretrained(tmp_path / "model")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "model")
    code, _, err = visualize(capfd, "--model", tmp_path / "model", "--image", picture)
    assert code == 1 and "draws models of RGB images only" in err.splitlines()[-1]


def test_missing_image_processor_is_named(tmp_path, picture, capfd):
    RelPosViTForImageClassification(RelPosViTConfig.tiny()).save_pretrained(tmp_path / "model")
    code, _, err = visualize(capfd, "--model", tmp_path / "model", "--image", picture)
    assert code == 1
    told = err.splitlines()[-1]
    assert "has no image processor" in told and f"save_pretrained('{tmp_path / 'model'}')" in told
