"""The relative position ViT as a transformers model."""

import pytest
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    ViTImageProcessor,
    pipeline,
)

from omnilatent import RelPosViTConfig, RelPosViTForImageClassification, RelPosViTModel

KINDS = [
    {},
    {"share_position_bias": True, "use_class_token": True, "pooling": "cls", "layer_scale_init_value": 0.1},
    {"position_embedding": "both", "use_class_token": True, "norm_position": "after", "norm_after_pooling": True},
    {"position_embedding": "absolute"},
    {"bias_type": "1d", "use_class_token": True},
]
VIDEO = {"num_frames": 4, "tubelet_size": 2, "image_size": (16, 24)}


def build(cls=RelPosViTForImageClassification, std=0.3, **words):
    """A model whose parameters are all random, so that no zero hides a mistake."""
    torch.manual_seed(0)
    model = cls(RelPosViTConfig.tiny(num_labels=5, **words)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * std)
    return model


def images(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("words", KINDS)
def test_kernels_agree(words):
    model, pixels = build(**words), images(2, 3, 24, 32)
    found = []
    for kernel in ("eager", "sdpa", "relative"):
        model.set_attn_implementation(kernel)
        found.append(model(pixels).logits)
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[2], found[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("words", KINDS)
def test_what_is_saved_is_what_is_loaded(words, tmp_path):
    model, pixels = build(**words), images(2, 3, 24, 32)
    model.save_pretrained(tmp_path)
    again = AutoModelForImageClassification.from_pretrained(tmp_path)
    for (name, saved), loaded in zip(model.state_dict().items(), again.state_dict().values()):
        assert torch.equal(saved, loaded), name
    torch.testing.assert_close(again(pixels).logits, model(pixels).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("words", [*KINDS[:4], {**VIDEO}])
def test_the_bias_reaches_the_logits_and_gets_a_gradient(words):
    model = build(std=0.1, **words)  # small enough for the softmax to let all tokens through
    pixels = images(2, 4, 3, 16, 24) if "num_frames" in words else images(2, 3, 24, 32)
    loss = model(pixels, labels=torch.tensor([0, 3])).loss
    loss.backward()
    for name, parameter in model.named_parameters():
        if not name.endswith("k_proj.bias"):  # which adds one number to all scores of a query
            assert parameter.grad.abs().max() > 1e-7, name
    tables = [parameter for name, parameter in model.named_parameters() if name.endswith("bias_table")]
    expected = {"relative": 2, "both": 2, "absolute": 0}[model.config.position_embedding]
    assert len(tables) == (1 if model.config.share_position_bias else expected)


def test_two_runs_give_the_same_bits():
    model, pixels = build(drop_path_rate=0.2, hidden_dropout=0.1).train(), images(3, 3, 24, 32)
    gradients = []
    for _ in range(2):
        torch.manual_seed(3)
        model.zero_grad()
        model(pixels, labels=torch.tensor([1, 2, 3])).loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.equal(first, second) for first, second in zip(*gradients))


def test_an_oblong_picture_is_no_turned_one():
    model = build(image_size=(24, 40))
    assert model.config.grid_size == (3, 5)
    assert model(images(1, 3, 24, 40)).logits.shape == (1, 5)
    assert model(images(1, 3, 40, 24)).logits.shape == (1, 5)  # by a resampled table


# --- other sizes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", KINDS)
@pytest.mark.parametrize("size", [(40, 16), (8, 8), (24, 56)])
def test_pictures_of_any_size_that_patches_divide_are_read(words, size):
    output = build(RelPosViTModel, **words)(images(2, 3, *size))
    tokens = size[0] * size[1] // 64 + words.get("use_class_token", False)
    assert output.last_hidden_state.shape == (2, tokens, 32)
    assert output.pooler_output.isfinite().all()


@pytest.mark.parametrize("words", KINDS[:4])
@pytest.mark.parametrize("kernel", ["eager", "sdpa", "relative"])
def test_a_padded_batch_equals_its_pictures_one_by_one(words, kernel):
    model = build(**words)
    model.set_attn_implementation(kernel)
    alone = [images(1, 3, *size) for size in ((24, 32), (40, 16), (8, 24))]
    pixels, mask = torch.full((3, 3, 40, 32), torch.nan), torch.zeros(3, 40, 32, dtype=torch.long)
    for b, picture in enumerate(alone):
        height, width = picture.shape[2:]
        pixels[b, :, :height, :width] = picture[0]
        mask[b, :height, :width] = 1
    expected = torch.cat([model(picture).logits for picture in alone])
    torch.testing.assert_close(model(pixels, mask).logits, expected, rtol=1e-4, atol=1e-5)


def test_a_batch_of_no_pictures_is_refused():
    with pytest.raises(ValueError, match="empty batch"):
        build()(torch.zeros(0, 3, 24, 32))


def test_a_padded_batch_of_videos_equals_them_one_by_one():
    model = build(**VIDEO)
    alone = [images(1, frames, 3, height, 24) for frames, height in ((4, 16), (6, 8), (2, 24))]
    pixels, mask = torch.zeros(3, 6, 3, 24, 24), torch.zeros(3, 6, 24, 24, dtype=torch.bool)
    for b, video in enumerate(alone):
        frames, _, height, width = video.shape[1:]
        pixels[b, :frames, :, :height, :width] = video[0]
        mask[b, :frames, :height, :width] = True
    expected = torch.cat([model(video).logits for video in alone])
    torch.testing.assert_close(model(pixels, mask).logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("words", KINDS)
def test_resized_positions_give_what_the_model_gave_at_that_size(words, tmp_path):
    model, pixels = build(**words), images(2, 3, 40, 16)
    expected = model(pixels).logits
    model.resize_positions((40, 16))
    assert model.config.grid_size == (5, 2)
    torch.testing.assert_close(model(pixels).logits, expected, rtol=1e-5, atol=1e-5)
    model.save_pretrained(tmp_path)
    again = RelPosViTForImageClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(again(pixels).logits, expected, rtol=1e-5, atol=1e-5)


def test_resizing_to_the_same_size_keeps_every_value_and_a_wrong_size_changes_nothing():
    model = build(position_embedding="both")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="cannot be cut"):
        model.resize_positions((24, 30))
    model.resize_positions((24, 32))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.config.image_size == (24, 32)


def test_a_size_first_seen_in_inference_mode_can_be_trained_on():
    model, pixels = build(position_embedding="both"), images(1, 3, 16, 56)
    with torch.inference_mode():
        expected = model(pixels).logits
    logits = model(pixels).logits
    logits.sum().backward()
    torch.testing.assert_close(logits.detach(), expected.clone())


def test_gradients_are_the_same_with_checkpointing():
    model, pixels = build(share_position_bias=True).train(), images(2, 3, 40, 16)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable()
        model.zero_grad()
        model(pixels, labels=torch.tensor([0, 1])).loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for first, second in zip(*gradients):
        torch.testing.assert_close(first, second)


# --- what surrounds it ---------------------------------------------------------------------------------------------


def test_auto_classes_know_the_model():
    assert isinstance(AutoConfig.for_model("relpos_vit"), RelPosViTConfig)
    assert type(AutoModel.from_config(RelPosViTConfig.tiny())) is RelPosViTModel
    auto = AutoModelForImageClassification.from_config(RelPosViTConfig.tiny())
    assert type(auto) is RelPosViTForImageClassification


def test_the_pipeline_classifies_a_picture(tmp_path):
    build(id2label={i: name for i, name in enumerate("abcde")}).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 24, "width": 32}).save_pretrained(tmp_path)
    assert isinstance(AutoImageProcessor.from_pretrained(tmp_path), ViTImageProcessor)
    found = pipeline("image-classification", model=str(tmp_path), device="cpu")(Image.new("RGB", (50, 40)), top_k=5)
    assert {entry["label"] for entry in found} == set("abcde")
    assert abs(sum(entry["score"] for entry in found) - 1) < 1e-4


def test_an_exported_graph_holds_no_mask_where_nothing_is_padded():
    model = build(position_embedding="none")
    graph = torch.export.export(model, (images(2, 3, 24, 32),)).graph
    calls = [node for node in graph.nodes if node.target is torch.ops.aten.scaled_dot_product_attention.default]
    assert len(calls) == model.config.num_hidden_layers
    assert all(len(call.all_input_nodes) == 3 for call in calls)  # a mask keeps fused kernels from running


@pytest.mark.parametrize("kernel", ["sdpa", "relative"])
def test_a_compiled_graph_of_a_padded_batch_is_whole_and_equal(kernel):
    model, pixels = build(), images(2, 3, 24, 32)
    model.set_attn_implementation(kernel)
    mask = torch.ones(2, 24, 32)
    mask[1, 16:] = 0
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(pixels, mask).logits, model(pixels, mask).logits, rtol=1e-5, atol=1e-5)


def test_hidden_states_and_attentions_are_given_when_asked_for():
    model = build(attn_implementation="eager", use_class_token=True)
    output = model(images(2, 3, 24, 32), output_hidden_states=True, output_attentions=True)
    assert [states.shape for states in output.hidden_states] == [(2, 13, 32)] * 3
    assert [weights.shape for weights in output.attentions] == [(2, 4, 13, 13)] * 2


def test_the_default_is_vit_base():
    config = RelPosViTConfig()
    with torch.device("meta"):
        model = RelPosViTForImageClassification(RelPosViTConfig(num_labels=1000))
    assert (config.grid_size, config.intermediate_size) == ((14, 14), 3072)
    assert 86e6 < model.num_parameters() < 87.5e6


def test_presets_are_vits_of_those_names():
    with torch.device("meta"):
        small = RelPosViTForImageClassification(RelPosViTConfig.small(num_labels=1000))
    assert (small.config.hidden_size, small.config.grid_size) == (384, (14, 14))
    assert 21.5e6 < small.num_parameters() < 22.5e6
    assert RelPosViTConfig.base().to_dict() == RelPosViTConfig().to_dict()
    assert RelPosViTConfig.base(patch_size=32).grid_size == (7, 7)


def test_the_table_starts_with_the_configs_deviation():
    model = RelPosViTModel(RelPosViTConfig.tiny(initializer_range=0.3))
    table = model.layers[0].relative_position_bias.relative_position_bias_table
    assert 0.2 < table.std() < 0.4


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"image_size": (24, 30)}, "cannot be cut"),
        ({"num_frames": 3, "tubelet_size": 2}, "cannot be cut"),
        ({"pooling": "cls"}, "use_class_token"),
        ({"pooling": "max"}, "mean, cls"),
        ({"bias_type": "4d"}, '"1d" or "2d" for images .*"1d" or "3d" for videos .* got .4d. with .num_frames=None'),
        ({"bias_type": "3d"}, '"1d" or "2d" for images .*"1d" or "3d" for videos .* got .3d. with .num_frames=None'),
        ({"bias_type": "2d", "num_frames": 4}, '"1d" or "3d" for videos .* got .2d. with .num_frames=4'),
        ({"position_embedding": "rotary"}, "relative, absolute"),
        ({"norm_position": "middle"}, "before, after"),
        ({"hidden_act": "foo"}, "`hidden_act` must be one of gelu,.* got 'foo'"),
        ({"hidden_size": 30}, "not divisible"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
        ({"image_size": (8, 8, 8)}, "one number or"),
        ({"windowsize": 7}, "no setting 'windowsize'"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_construction(words, message):
    with pytest.raises(ValueError, match=message):
        RelPosViTConfig.tiny(**words)


@pytest.mark.parametrize(
    ("pixels", "mask", "message"),
    [
        ((2, 3, 20, 32), None, "cannot be cut"),
        ((2, 4, 24, 32), None, r"\(batch, 3 channels, height, width\)"),
        ((3, 24, 32), None, r"\(batch, 3 channels, height, width\)"),
        ((2, 3, 50, 32), torch.ones(2, 50, 32), r"\(50, 32\) cannot be cut into patches of \(8, 8\)"),
        ((2, 3, 24, 32), -torch.ones(2, 24, 32), "no other value"),
        ((2, 3, 24, 32), torch.full((2, 24, 32), torch.nan), "no other value"),
        ((2, 3, 24, 32), torch.ones(2, 24, 24), "pixel_mask"),
        ((2, 3, 24, 32), torch.zeros(2, 24, 32), "block of whole patches"),
        ((2, 3, 24, 32), torch.ones(2, 24, 32).index_fill(1, torch.arange(8), 0), "block of whole patches"),
        ((2, 3, 24, 32), torch.ones(2, 24, 32).index_fill(2, torch.arange(20, 32), 0), "block of whole patches"),
        (
            (2, 3, 24, 32),
            torch.stack([torch.ones(24, 32), torch.ones(24, 32).index_fill(1, torch.arange(20, 32), 0)]),
            r"patches of \(8, 8\) .* sample 1 marks \(24, 20\) of \(24, 32\) pixels",
        ),
    ],
)
def test_pixels_that_do_not_fit_are_refused(pixels, mask, message):
    with pytest.raises(ValueError, match=message):
        build()(torch.zeros(pixels), mask)


def test_a_video_whose_axes_are_exchanged_is_told_by_the_shape_that_came():
    message = r"\(batch, frames, 3 channels, height, width\), got the shape \(2, 3, 4, 16, 24\)"
    with pytest.raises(ValueError, match=message):
        build(**VIDEO)(torch.zeros(2, 3, 4, 16, 24))


def test_places_in_a_row_have_no_padding():
    with pytest.raises(ValueError, match="1d"):
        build(bias_type="1d")(torch.zeros(1, 3, 24, 32), torch.ones(1, 24, 32))
