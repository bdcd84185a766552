"""What `import omnilatent` makes transformers know."""

import pytest
from transformers import AutoConfig, AutoModel, AutoModelForMultimodalLM, AutoProcessor, AutoTokenizer

import omnilatent
from omnilatent import OmniLatentConfig, OmniLatentModel, OmniLatentTokenizer
from omnilatent.registration import register


def test_auto_config_knows_the_model_type():
    assert isinstance(AutoConfig.for_model("omnilatent"), OmniLatentConfig)


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForMultimodalLM])
def test_auto_models_build_the_model(auto):
    assert type(auto.from_config(OmniLatentConfig.tiny())) is OmniLatentModel


def test_registering_twice_changes_nothing():
    register()
    test_auto_config_knows_the_model_type()


def test_auto_classes_load_what_was_saved(tmp_path):
    OmniLatentConfig.tiny(hidden_size=24).save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).hidden_size == 24
    OmniLatentTokenizer(special_token_offset=1344).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.decode(tokenizer("naïve")["input_ids"]) == "naïve"


def test_auto_processor_loads_what_was_saved(tmp_path):
    processor = omnilatent.OmniLatentProcessor.from_config(OmniLatentConfig.tiny())
    processor.save_pretrained(tmp_path)
    assert type(AutoProcessor.from_pretrained(tmp_path)) is type(processor)
