"""What the aligner's config refuses, derives and keeps."""

import pytest

from omnilatent import OmniNetConfig


def test_derived_sizes_follow_the_width():
    config = OmniNetConfig(hidden_size=192, num_attention_heads=6)
    assert (config.num_key_value_heads, config.intermediate_size) == (6, 512)
    assert config.initializer_range == pytest.approx(0.04)


def test_streams_are_those_with_a_width():
    assert OmniNetConfig.tiny(audio_hidden_size=None).streams == {"vision": 20, "text": 28}


def test_save_and_reload_keeps_every_setting(tmp_path):
    config = OmniNetConfig.tiny(text_hidden_size=None, loss="sigmoid", max_time_horizon=12.5)
    config.save_pretrained(tmp_path)
    assert OmniNetConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 30}, "`hidden_size` 30 is not divisible by `num_attention_heads` 4"),
        ({"num_key_value_heads": 3}, "`num_attention_heads` 4 is not divisible by `num_key_value_heads` 3"),
        (
            {"vision_hidden_size": None, "text_hidden_size": None},
            r"Alignment needs two .* got features of \['audio'\]",
        ),
        ({"audio_hidden_size": 0}, "`audio_hidden_size` must be positive"),
        ({"num_query_tokens": 0}, "`num_query_tokens` must be positive"),
        ({"num_hidden_layers": -1}, "`num_hidden_layers` must not be negative"),
        ({"attention_dropout": 1.0}, "`attention_dropout` must lie in"),
        ({"time_resolution": 99.0}, "`time_resolution` 99.0 s is above `max_time_horizon` 64.0 s"),
        ({"num_querry_tokens": 3}, "no setting 'num_querry_tokens'. Did you mean 'num_query_tokens'"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        OmniNetConfig.tiny(**settings)


def test_a_word_of_another_type_is_refused():
    with pytest.raises(Exception, match="loss"):
        OmniNetConfig.tiny(loss="triplet")


def test_a_config_of_another_model_is_refused():
    with pytest.raises(ValueError, match="of model type 'omnilatent', not of 'omninet'"):
        OmniNetConfig.from_dict({"model_type": "omnilatent"})


def test_settings_of_a_newer_version_are_kept():
    config = OmniNetConfig.from_dict({**OmniNetConfig.tiny().to_dict(), "word_of_tomorrow": 3})
    assert config.word_of_tomorrow == 3
