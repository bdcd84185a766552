"""Encoders and their fusion as one model."""

import pytest
import torch
from transformers import AutoConfig, AutoModel, BertConfig, VideoMAEConfig, ViTConfig, ViTModel, Wav2Vec2Config

from omnilatent import (
    EncoderConfig,
    MultiModalForClassification,
    MultiModalForRetrieval,
    MultiModalTransformer,
    create_model,
)
from omnilatent.configuration.multimodal_presets import list_presets
from omnilatent.modeling_omni.multimodal.token_encoder import TokenEncoder

from .conftest import LAYERS, make_config, make_inputs, randomise

FUSIONS = ("concatenation", "co_attention", "bottleneck", "gated_sum", "low_rank_tensor")
POSITIONS = ("learned", "sinusoidal", "rotary", "relative", "none")
KINDS = ("multi_head", "sparse", "linear", "performer")


def pad_text(inputs, side):
    """Two tokens of padding, whatever they hold."""
    pad = (0, 2) if side == "right" else (2, 0)
    mask = torch.ones_like(inputs["input_ids"])
    padded = torch.nn.functional.pad(inputs["input_ids"], pad, value=5)
    return inputs | {"input_ids": padded, "attention_mask": torch.nn.functional.pad(mask, pad)}


@pytest.mark.parametrize("kind", FUSIONS)
@pytest.mark.parametrize("pooling", ["attention", "mean", "cls"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(kind, pooling, side):
    model = randomise(MultiModalTransformer(make_config(fusion={**LAYERS, "kind": kind, "pooling": pooling})))
    inputs = make_inputs()
    expected = model(**inputs).pooler_output
    torch.testing.assert_close(model(**pad_text(inputs, side)).pooler_output, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("attention", KINDS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing_in_any_encoder(position, attention, side):
    if position == "relative" and attention in ("linear", "performer"):
        pytest.skip("refused: see tests of the config")
    window = {"window_size": 2} if attention == "sparse" else {}
    part = {**LAYERS, "position": position, "attention": {"num_attention_heads": 3, "kind": attention, **window}}
    config = make_config(
        text_config={"vocab_size": 71, "use_class_token": True, **part},
        image_config={"image_size": 12, "patch_size": 4, **part},
    )
    model, inputs = randomise(MultiModalTransformer(config)), make_inputs()
    expected = model(**inputs).pooler_output
    torch.testing.assert_close(model(**pad_text(inputs, side)).pooler_output, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("second", ["image", "video"])
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("attention", KINDS)
def test_a_mask_that_lets_all_through_changes_nothing(second, position, attention):
    if position == "relative" and attention in ("linear", "performer"):
        pytest.skip("refused: see tests of the config")
    window = {"window_size": 2} if attention == "sparse" else {}
    part = {**LAYERS, "position": position, "attention": {"num_attention_heads": 3, "kind": attention, **window}}
    config = make_config(second).second_config.to_dict() | part
    model = randomise(TokenEncoder(EncoderConfig.from_dict(config)))
    ((name, values),) = ((name, values) for name, values in make_inputs(second).items() if name != "input_ids")
    mask = torch.ones(2, 6 if second == "video" else 9)
    expected = model(**{name: values}).last_hidden_state
    found = model(**{name: values}, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", FUSIONS)
def test_every_modality_matters(kind):
    model = randomise(MultiModalTransformer(make_config(fusion={**LAYERS, "kind": kind})))
    inputs = make_inputs()
    first = model(**inputs).pooler_output
    for name in inputs:
        other = model(**inputs | {name: inputs[name].flip(0)}).pooler_output
        assert (first - other).abs().max() > 1e-4, name


@pytest.mark.parametrize("position", ["learned", "sinusoidal", "rotary", "relative"])
def test_the_order_of_words_matters_where_there_are_positions(position):
    def swing(position):
        model = MultiModalTransformer(make_config(text_config={"vocab_size": 71, **LAYERS, "position": position}))
        inputs = make_inputs()
        other = inputs | {"input_ids": inputs["input_ids"].flip(1)}
        randomise(model)
        return (model(**inputs).pooler_output - model(**other).pooler_output).abs().max()

    assert swing(position) > 1e-3 > 1e-5 > swing("none")


def test_a_batch_equals_one_by_one():
    model, inputs = randomise(MultiModalTransformer(make_config())), make_inputs()
    together = model(**inputs).pooler_output
    for row in range(2):
        alone = model(**{name: values[row : row + 1] for name, values in inputs.items()}).pooler_output
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("second", ["image", "audio", "video"])
def test_any_second_modality(second):
    model = MultiModalTransformer(make_config(second))
    output = model(**make_inputs(second))
    tokens = {"image": 9, "audio": 8, "video": 12}[second]
    assert output.last_hidden_state.shape == (2, 7 + tokens, 24)
    output.pooler_output.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_padded_sound_equals_its_real_part():
    model, inputs = randomise(MultiModalTransformer(make_config("audio"))), make_inputs("audio")
    sound = inputs["input_features"][:, :, :24]
    expected = model(**inputs | {"input_features": sound}).pooler_output
    mask = torch.ones(2, 29, dtype=torch.long)
    mask[:, 24:] = 0
    output = model(**inputs, audio_attention_mask=mask).pooler_output
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-4)


def test_frames_that_are_not_there_change_nothing():
    model, inputs = randomise(MultiModalTransformer(make_config("video"))), make_inputs("video")
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]] * 2)
    first = model(**inputs, video_attention_mask=mask).pooler_output
    inputs["pixel_values_videos"][:, 4:] = 7.0
    torch.testing.assert_close(model(**inputs, video_attention_mask=mask).pooler_output, first, atol=1e-6, rtol=1e-5)


def test_features_in_the_specifications_words():
    config = make_config(image_config={**LAYERS, "feature_size": 17})
    model = randomise(MultiModalTransformer(config))
    features, text = torch.randn(2, 5, 17), make_inputs()["input_ids"]
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    words = {"text_inputs": text, "text_attention_mask": torch.ones(2, 7), "image_attention_mask": mask}
    first = model(**words, image_features=features).pooler_output
    features[1, 3:] = float("nan")  # what pads may be anything
    torch.testing.assert_close(model(**words, image_features=features).pooler_output, first)


def test_one_modality_alone_goes_on_as_it_is():
    model, inputs = MultiModalTransformer(make_config()).eval(), make_inputs()
    assert model(input_ids=inputs["input_ids"]).last_hidden_state.shape == (2, 7, 24)
    assert model(pixel_values=inputs["pixel_values"]).last_hidden_state.shape == (2, 9, 24)


@pytest.mark.parametrize("kind", FUSIONS)
def test_saved_and_reloaded_is_bit_equal(kind, tmp_path):
    model = randomise(MultiModalTransformer(make_config(fusion={**LAYERS, "kind": kind, "pooling": "cls"})))
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path).eval()
    assert type(again) is MultiModalTransformer
    assert torch.equal(again(**make_inputs()).pooler_output, model(**make_inputs()).pooler_output)


@pytest.mark.parametrize("kind", FUSIONS)
def test_a_fusion_starts_from_its_own_standard_deviation(kind, tmp_path):
    torch.manual_seed(0)
    model = MultiModalTransformer(make_config(fusion={**LAYERS, "kind": kind, "initializer_range": 0.5}))
    for part in (model.fusion, model.pooling):
        drawn = [layer.weight for layer in part.modules() if isinstance(layer, torch.nn.Linear)]
        assert all(weight.std().item() == pytest.approx(0.5, rel=0.15) for weight in drawn)
    words = model.text_encoder.layers[0].feed_forward.parameters()
    assert max(weight.std() for weight in words if weight.ndim == 2) < 0.03
    with torch.no_grad():  # what is loaded is not drawn again
        model.pooling.queries.attention.q_proj.weight.fill_(3.0)
    model.save_pretrained(tmp_path)
    loaded = MultiModalTransformer.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())


def test_heads_of_another_width_pool_too():
    attention = {"num_attention_heads": 5, "head_dim": 6}
    model = MultiModalTransformer(make_config(fusion={**LAYERS, "attention": attention}))
    assert model.pooling.queries.attention.head_dim == 6
    assert model(**make_inputs()).pooler_output.shape == (2, 24)


def test_a_given_encoder_without_class_token_is_refused_where_one_is_read():
    words, fusion = {"vocab_size": 71, **LAYERS}, {**LAYERS, "pooling": "cls"}
    encoder = TokenEncoder(EncoderConfig(**words))
    with pytest.raises(ValueError, match="class token, which the given text encoder lacks"):
        MultiModalTransformer.from_pretrained_encoders(text=encoder, fusion=fusion)
    assert not encoder.config.use_class_token
    encoder = TokenEncoder(EncoderConfig(**words, use_class_token=True))
    model = MultiModalTransformer.from_pretrained_encoders(text=encoder, fusion=fusion)
    assert model.text_encoder is encoder and model.image_encoder.class_token is not None


@pytest.mark.parametrize("given", ["pixel_values", "features"])
def test_in_training_every_input_layer_has_a_gradient(given):
    encoder = TokenEncoder(EncoderConfig(image_size=12, patch_size=4, feature_size=7, **LAYERS)).train()
    values = {"pixel_values": torch.randn(2, 3, 12, 12), "features": torch.randn(2, 9, 7)}[given]
    encoder(**{given: values}).last_hidden_state.pow(2).sum().backward()
    unread = {"pixel_values": "features", "features": "patches"}[given]
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any() if f".{unread}." in name else parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("preset", list_presets())
def test_presets_make_models(preset):
    if preset.startswith("tiny"):
        assert sum(p.numel() for p in create_model(preset).parameters()) < 2_000_000
    else:
        with torch.device("meta"):
            assert sum(p.numel() for p in create_model(preset).parameters()) > 50_000_000


# --- encoders that are there already ----------------------------------------------------------------------------------

TOWER = {"hidden_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 28}


@pytest.mark.parametrize(
    ("second", "config"),
    [
        ("image", ViTConfig(image_size=12, patch_size=4, **TOWER)),
        (
            "audio",
            Wav2Vec2Config(
                conv_dim=(8, 8), conv_stride=(5, 4), conv_kernel=(10, 8), num_conv_pos_embedding_groups=4, **TOWER
            ),
        ),
        ("video", VideoMAEConfig(image_size=8, patch_size=4, num_frames=6, tubelet_size=2, **TOWER)),
    ],
)
def test_any_backbone_of_transformers(second, config, tmp_path):
    model = MultiModalForClassification.from_pretrained_encoders(
        text=BertConfig(vocab_size=71, **TOWER), fusion=dict(LAYERS), num_labels=3, **{second: config}
    )
    inputs = make_inputs(second)
    if second == "audio":
        inputs = {"input_ids": inputs["input_ids"], "input_values": torch.randn(2, 400)}
    randomise(model)
    model(**inputs, labels=torch.tensor([2, 0])).loss.backward()
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert [name for name in unused if not name.endswith("masked_spec_embed")] == []  # Wav2Vec2's, for SpecAugment
    model.save_pretrained(tmp_path)
    again = MultiModalForClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)


def test_the_weights_of_a_backbone_are_kept():
    tower = ViTModel(ViTConfig(image_size=12, patch_size=4, **TOWER))
    weight = (
        tower.encoder.layer[0].attention.attention.query.weight
        if hasattr(tower, "encoder")
        else next(tower.parameters())
    )
    before = weight.clone()
    model = MultiModalForRetrieval.from_pretrained_encoders(image=tower, fusion=dict(LAYERS))
    assert any(torch.equal(parameter, before) for parameter in model.model.encoders["image"].parameters())


def test_text_padding_changes_nothing_in_a_backbone():
    config = BertConfig(vocab_size=71, **TOWER)
    settings = {"image_config": {**LAYERS, "image_size": 12, "patch_size": 4}, "fusion": dict(LAYERS)}
    model = randomise(MultiModalTransformer.from_pretrained_encoders(text=config, **settings))
    expected = model(**make_inputs()).pooler_output
    torch.testing.assert_close(model(**pad_text(make_inputs(), "right")).pooler_output, expected, atol=1e-5, rtol=1e-4)


# --- what transformers asks of a model --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FUSIONS)
def test_kernels_agree(kind):
    model = randomise(MultiModalTransformer(make_config(fusion={**LAYERS, "kind": kind})))
    inputs = pad_text(make_inputs(), "right")
    outputs = {}
    for kernel in ("sdpa", "eager", "relative"):
        model.set_attn_implementation(kernel)
        assert {encoder.layers[0].attention.kernel_name for encoder in model.encoders.values()} == {kernel}
        outputs[kernel] = model(**inputs).pooler_output
    torch.testing.assert_close(outputs["eager"], outputs["sdpa"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(outputs["relative"], outputs["sdpa"], atol=1e-5, rtol=1e-4)


def test_kernels_are_set_by_a_dict_as_transformers_takes_it(caplog):
    model = MultiModalTransformer(make_config())
    model.set_attn_implementation({"": "eager", "image_config": "relative"})
    assert "sub-config" not in caplog.text  # of attentions, which are no models
    parts = {"text": "sdpa", "image": "relative"}
    assert {name: parts[name] for name in model.encoders} == {
        name: encoder.layers[0].attention.kernel_name for name, encoder in model.encoders.items()
    }
    assert {layer.kernel_name for layer in model.fusion.modules() if hasattr(layer, "kernel_name")} == {"eager"}
    assert model.config.image_config.attention._attn_implementation == "relative"


@pytest.mark.parametrize("kind", FUSIONS)
def test_gradient_checkpointing_gives_the_same_gradients(kind):
    def gradients(checkpointing):
        torch.manual_seed(3)
        model = randomise(MultiModalForClassification(make_config(fusion={**LAYERS, "kind": kind}))).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert model.is_gradient_checkpointing
        model(**make_inputs(), labels=torch.tensor([1, 3])).loss.backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    for (name, plain), again in zip(gradients(False).items(), gradients(True).values()):
        torch.testing.assert_close(again, plain, msg=name)


def test_config_is_found_by_its_type(tmp_path):
    config = make_config(scoring="cross")
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert again.scoring == "cross" and again.image_config.grid == (3, 3)


# --- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"text_inputs": torch.ones(2, 7, dtype=torch.long)}, "`input_ids` and `text_inputs` are the same input"),
        ({"image_features": torch.ones(2, 3, 4)}, "are the same input"),
        ({"input_features": torch.ones(2, 3, 4)}, "is audio, but the model reads text and image"),
        ({"image_attention_mask": torch.ones(2, 4)}, "must have the shape"),
        ({"pixel_values": torch.ones(2, 3, 16, 12)}, r"\(2, 3, 16, 12\)"),
        ({"pixel_values": torch.ones(3, 3, 12, 12)}, "batch sizes"),
        ({"input_ids": torch.ones(2, 33, dtype=torch.long)}, "`max_position_embeddings` is 32"),
        ({"input_ids": torch.ones(2, 0, dtype=torch.long)}, "something in each"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(words, message):
    model = MultiModalTransformer(make_config())
    with pytest.raises(ValueError, match=message):
        model(**make_inputs() | words)


def test_features_for_pixels_are_refused():
    model = MultiModalTransformer(make_config())
    with pytest.raises(ValueError, match="no `feature_size`"):
        model(image_features=torch.ones(2, 3, 4))


def test_nothing_at_all_is_refused():
    with pytest.raises(ValueError, match="text or image"):
        MultiModalTransformer(make_config())()
