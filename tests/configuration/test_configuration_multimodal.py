"""What makes a multimodal config, and what is refused with which words."""

import json

import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError

from omnilatent import DecoderConfig, EncoderConfig, FusionConfig, ModelConfig, MultiModalConfig, create_model
from omnilatent.configuration.multimodal_presets import find_preset, list_presets, load_preset

IMAGE = {"image_size": 32, "patch_size": 8}


def test_the_specifications_name_is_an_alias():
    assert ModelConfig is MultiModalConfig


def test_parts_are_configs_of_their_own():
    config = MultiModalConfig(image_config=IMAGE, decoder_config={}, fusion={"kind": "bottleneck"})
    assert isinstance(config.text_config, EncoderConfig) and isinstance(config.image_config, EncoderConfig)
    assert isinstance(config.fusion, FusionConfig) and isinstance(config.decoder_config, DecoderConfig)
    assert config.second_modality == "image" and config.image_config.grid == (4, 4)


def test_saved_and_reloaded_is_equal(tmp_path):
    config = MultiModalConfig(
        video_config={"image_size": 32, "patch_size": 8, "num_frames": 4, "attention": {"kind": "linear"}},
        fusion={"kind": "gated_sum", "pooling": "cls"},
        decoder_config={"position": "rotary"},
        scoring="cross",
    )
    config.save_pretrained(tmp_path)
    again = MultiModalConfig.from_pretrained(tmp_path)
    ignored = {"transformers_version"}
    assert {k: v for k, v in again.to_dict().items() if k not in ignored} == {
        k: v for k, v in config.to_dict().items() if k not in ignored
    }
    assert again.video_config.attention.kind == "linear"


def test_words_of_a_newer_version_are_kept(tmp_path):
    MultiModalConfig().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    words = json.loads(path.read_text())
    words["text_config"]["words_to_come"] = 3
    path.write_text(json.dumps(words))
    assert MultiModalConfig.from_pretrained(tmp_path).text_config.words_to_come == 3


def test_pooling_by_class_token_gives_encoders_one():
    config = MultiModalConfig(image_config=IMAGE, fusion={"pooling": "cls"})
    assert config.image_config.use_class_token and config.text_config.use_class_token


def test_a_given_config_stays_as_it_is():
    image = EncoderConfig(**IMAGE)
    assert MultiModalConfig(image_config=image, fusion={"pooling": "cls"}).image_config.use_class_token
    assert not image.use_class_token


@pytest.mark.parametrize("kind", ["gated_sum", "low_rank_tensor"])
def test_fusions_of_pooled_vectors_need_no_layers(kind):
    assert FusionConfig(kind=kind, num_hidden_layers=0).kind == kind


def test_the_text_that_is_written_is_the_decoders():
    config = MultiModalConfig(decoder_config={"vocab_size": 555}, is_encoder_decoder=True)
    assert config.get_text_config().vocab_size == 555
    assert config.get_text_config(encoder=True) is config.text_config
    assert MultiModalConfig().get_text_config().vocab_size == 384


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"image_config": IMAGE, "audio_config": {"num_mel_bins": 20}}, "`image_config` and `audio_config` are given"),
        ({"image_config": {"num_mel_bins": 20}}, "reads audio, not image"),
        ({"image_config": {}}, "give `image_size` or `feature_size`"),
        ({"image_config": {**IMAGE, "num_mel_bins": 20}}, "`image_size` and `num_mel_bins` are given"),
        ({"image_config": {**IMAGE, "patch_size": 7}}, "not divisible by `patch_size` 7"),
        ({"image_config": {**IMAGE, "hidden_size": 30}}, "`hidden_size` 30 is not divisible"),
        ({"image_config": {**IMAGE, "feature_size": 8, "position": "relative"}}, "places on a grid"),
        ({"text_config": {"vocab_size": 99, "dropout": 1.5}}, "`dropout` must lie"),
        ({"text_config": {"vocab_size": 0}}, "`vocab_size` must be positive, got 0"),
        ({"text_config": {"vocab_size": 9, "position": "relative", "attention": {"kind": "linear"}}}, "makes none"),
        ({"decoder_config": {"attention": {"kind": "sparse"}}}, "must be 'multi_head', got 'sparse'"),
        ({"decoder_config": {"position": "relative"}}, "got 'relative'"),
        ({"fusion": {"attention": {"kind": "sparse"}}}, "no neighbours"),
        ({"fusion": {"num_hidden_layers": 0}}, "`num_hidden_layers` is 0, but fusion of kind 'concatenation' mixes"),
        ({"fusion": {"num_hidden_layers": 0, "kind": "co_attention"}}, "kind 'co_attention' mixes"),
        ({"fusion": {"num_hidden_layers": 0, "kind": "bottleneck"}}, "kind 'bottleneck' mixes"),
        ({"fusion": {"rank": 0}}, "`rank` must be positive"),
        ({"matching_loss_weight": -1.0}, "`matching_loss_weight` must not be negative"),
        ({"image_confg": IMAGE}, "Did you mean 'image_config'"),
        ({"text_config": {"vocab_siz": 9}}, "Did you mean 'vocab_size'"),
        ({"learning_rate": 1e-3}, "TrainingArguments"),
    ],
)
def test_what_cannot_be_is_refused(words, message):
    with pytest.raises(ValueError, match=message):
        MultiModalConfig(**words)


@pytest.mark.parametrize(
    ("words", "field"),
    [
        ({"scoring": "both"}, "scoring"),
        ({"fusion": {"kind": "sum"}}, "kind"),
        ({"projection_dim": "9"}, "projection_dim"),
    ],
)
def test_values_of_another_type_are_refused(words, field):
    with pytest.raises(StrictDataclassFieldValidationError, match=f"field '{field}'"):
        MultiModalConfig(**words)


# --- presets ----------------------------------------------------------------------------------------------------------


def test_a_preset_is_found_by_name_and_by_the_specifications_path():
    paths = {find_preset(name) for name in ("base_text_image_model", "configs/base_text_image_model.json")}
    assert len(paths) == 1 and next(iter(paths)).is_file()


def test_a_file_goes_before_a_preset_of_its_name(tmp_path):
    path = tmp_path / "base_text_image_model.json"
    path.write_text(json.dumps({"image_config": IMAGE, "projection_dim": 7}))
    assert load_preset(path).projection_dim == 7


def test_settings_go_before_the_preset():
    assert load_preset("tiny_text_image_model", num_labels=9).num_labels == 9


def test_a_preset_that_is_not_there_names_those_that_are():
    with pytest.raises(FileNotFoundError, match="base_text_image_model.*tiny_text_image_model"):
        load_preset("huge_model")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('{"image_config": {"image_size": 32, "patchsize": 8}}', ("image_config.patchsize", "8", "'patch_size'")),
        ('{"fuzion": {"kind": "bottleneck"}}', ("'fuzion'", "bottleneck", "'fusion'")),
        ('{"text_config": {"attention": {"heads": 4}}}', ("text_config.attention.heads", "4")),
        ('{"fusion": {"kind": "sum"}}', ("kind", "sum")),
        ('{"image_config": {"image_size": 33}}', ("`image_size` 33",)),
        ('{"projection_dim": 7,}', ("is not JSON", "line 1")),
        ("[1]", ("expected an object",)),
    ],
)
def test_a_wrong_preset_is_named_with_word_and_value(tmp_path, text, parts):
    path = tmp_path / "wrong.json"
    path.write_text(text)
    with pytest.raises(ValueError) as error:
        load_preset(path)
    for part in (str(path), *parts):
        assert part in str(error.value)


def test_words_of_transformers_own_encoders_are_theirs(tmp_path):
    path = tmp_path / "bert.json"
    path.write_text(json.dumps({"text_config": {"model_type": "bert", "hidden_size": 24, "num_attention_heads": 3}}))
    assert load_preset(path).text_config.model_type == "bert"


def test_every_preset_says_only_what_there_is():
    assert {"base_text_image_model", "tiny_text_image_model"} <= set(list_presets())
    for preset in list_presets():
        load_preset(preset)


def test_models_of_presets():
    with pytest.raises(ValueError, match="choose one of None, 'retrieval'"):
        create_model("tiny_text_image_model", task="singing")
    with pytest.raises(ValueError, match="num_labels"):
        create_model(MultiModalConfig.tiny(), num_labels=3)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        (("text_config",), {"hidden_size": "big"}, "text_config: .*hidden_size"),
        (("fusion", "attention"), {"kind": "dense"}, "fusion.attention: .*kind"),
        ((), {"fusion_config": {}}, "Did you mean 'fusion'"),
    ],
)
def test_what_is_wrong_in_a_preset_is_told_with_its_place(part, change, message, tmp_path):
    words = json.loads(find_preset("tiny_text_image_model").read_text())
    inner = words
    for word in part:
        inner = inner[word]
    inner.update(change)
    (tmp_path / "mine.json").write_text(json.dumps(words))
    with pytest.raises(ValueError, match=f"(?s)mine.json: .*{message}"):
        load_preset(tmp_path / "mine.json")
