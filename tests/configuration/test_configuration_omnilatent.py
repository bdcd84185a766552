"""The config's words: what is accepted, what is derived, what is refused."""

import json

import pytest
from transformers import AutoConfig

from omnilatent import OmniLatentConfig


def test_the_defaults_are_those_of_the_specification():
    config = OmniLatentConfig()
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.vocab_size) == (
        768,
        12,
        12,
        32000,
    )
    assert (config.num_mel_bins, config.sampling_rate, config.hop_length) == (128, 16000, 160)
    assert (config.image_size, config.image_patch_size, config.video_size) == (224, 16, 112)
    assert (config.video_tubelet_size, config.video_patch_size, config.num_frames) == (4, 16, 16)


def test_the_default_model_has_about_140_million_parameters():
    import torch

    from omnilatent import OmniLatentModel

    with torch.device("meta"):
        model = OmniLatentModel(OmniLatentConfig())
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(140e6, rel=0.03)


def test_the_specifications_words_are_accepted_and_read_back():
    config = OmniLatentConfig(hidden_dim=128, num_layers=4, num_heads=4)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (128, 4, 4)
    assert (config.hidden_dim, config.num_layers, config.num_heads) == (128, 4, 4)


@pytest.mark.parametrize("preset", ["tiny", "base", "large"])
def test_presets_take_overrides_in_either_spelling(preset):
    config = getattr(OmniLatentConfig, preset)(hidden_dim=96, num_attention_heads=6)
    assert (config.hidden_size, config.num_attention_heads) == (96, 6)


def test_derived_sizes_follow_what_they_derive_from():
    config = OmniLatentConfig(hidden_size=96, num_attention_heads=6)
    assert (config.intermediate_size, config.head_dim, config.num_key_value_heads) == (336, 16, 6)


def test_placeholders_lie_above_the_vocabulary_and_apart():
    config = OmniLatentConfig.tiny()
    ids = [config.image_token_id, config.audio_token_id, config.video_token_id, config.text_target_token_id]
    ids += [config.audio_slot_token_id, config.image_slot_token_id, config.video_slot_token_id]
    assert min(ids) >= config.vocab_size and len(set(ids)) == len(ids)


def test_saved_and_loaded_it_is_equal(tmp_path):
    config = OmniLatentConfig.tiny(num_key_value_heads=2, sequence_adaptation="interpolate", ctc_loss_weight=0.5)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is OmniLatentConfig
    assert loaded.to_json_string() == config.to_json_string()


def test_words_of_a_newer_version_are_kept_and_said(tmp_path, caplog):
    import transformers

    config = OmniLatentConfig.tiny()
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**saved, "word_of_tomorrow": 3}))
    transformers.utils.logging.enable_propagation()
    try:
        loaded = OmniLatentConfig.from_pretrained(tmp_path)
    finally:
        transformers.utils.logging.disable_propagation()
    assert loaded.word_of_tomorrow == 3 and "word_of_tomorrow" in caplog.text


def test_a_config_of_another_model_is_refused_by_name(tmp_path):
    from transformers import LlamaConfig

    from omnilatent import OmniLatentModel

    LlamaConfig(num_hidden_layers=1).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="llama.*omnilatent|omnilatent.*llama"):
        OmniLatentModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "words, message",
    [
        ({"batch_size": 4}, r"TrainingArguments\(per_device_train_batch_size"),
        ({"learning_rate": 3e-4}, r"TrainingArguments\(learning_rate"),
        ({"max_steps": 5}, r"TrainingArguments\(max_steps"),
        ({"mixed_precision": True}, r"TrainingArguments\(bf16"),
        ({"gradient_checkpointing": True}, r"TrainingArguments\(activation_checkpointing"),
        ({"hiden_size": 8}, "'hiden_size'.*'hidden_size'"),
        ({"hidden_size": 100, "num_heads": 7}, "100.*7"),
        ({"num_attention_heads": 12, "num_key_value_heads": 5}, "12.*5"),
        ({"hidden_size": 12, "num_attention_heads": 4}, "even.*3"),
        ({"image_size": 225}, "225.*16"),
        ({"video_size": 100}, "100.*16"),
        ({"num_frames": 18}, "18.*4"),
        ({"image_size": 2048}, "2048.*1024"),
        ({"num_hidden_layers": 0}, "positive, got 0"),
        ({"text_vocab_size": 33000}, "32000, got 33000"),
        ({"special_token_offset": 31999}, "31999.*32000"),
        ({"image_loss_weight": -1.0}, "negative"),
        ({"text_loss_weight": float("nan")}, "negative, got nan"),
        ({"rope_theta": 0}, "rope_theta. must be positive"),
        ({"head_dim": 0}, "even"),
        ({"attention_dropout": 1.5}, "1.5"),
        ({"eos_token_id": 32000}, "0..31999.*32000"),
        ({"pad_token_id": None}, "pad_token_id.*None"),
        ({"text_vocab_size": 2}, "eos_token_id.*0..1"),
        ({"hidden_dim": 64, "hidden_size": 32}, "64.*32"),
    ],
)
def test_a_config_that_cannot_work_is_refused_with_both_sides_named(words, message):
    with pytest.raises(ValueError, match=message):
        OmniLatentConfig(**words)


def test_a_value_of_another_type_is_refused():
    with pytest.raises(Exception, match="hidden_size"):
        OmniLatentConfig(hidden_size="wide")
