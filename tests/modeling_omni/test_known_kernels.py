"""An attention kernel that a model cannot use is refused when it is set, and the error names those that it can."""

import pytest
import torch
from transformers import ASTConfig, AutoModel, ViTConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from omnilatent import (
    AudioVisualAligner,
    DecoderConfig,
    EncoderConfig,
    MultiModalConfig,
    MultiModalForCaptioning,
    MultiModalTransformer,
    OmniLatentConfig,
    OmniLatentModel,
    OmniNetConfig,
    OmniNetModel,
    RelPosViTConfig,
    RelPosViTForImageClassification,
    RelPosViTModel,
)
from omnilatent.modeling_omni.multimodal.token_decoder import TokenDecoder
from omnilatent.modeling_omni.multimodal.token_encoder import TokenEncoder

LAYERS = {"hidden_size": 24, "num_hidden_layers": 1}


def tiny_of(cls, config):
    return lambda **words: cls(config.tiny(**words))


def small_aligner(**words):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 40}
    towers = ViTConfig(image_size=32, **sizes), ASTConfig(num_mel_bins=32, max_length=60, **sizes)
    config = AudioVisualAligner.from_towers(*towers, hidden_size=16, num_attention_heads=2, projection_dim=12).config
    config._attn_implementation = words.get("attn_implementation", "sdpa")
    return AudioVisualAligner(config)


RELATIVE = {
    "RelPosViTModel": tiny_of(RelPosViTModel, RelPosViTConfig),
    "RelPosViTForImageClassification": tiny_of(RelPosViTForImageClassification, RelPosViTConfig),
    "TokenEncoder": lambda **words: TokenEncoder(EncoderConfig(image_size=16, patch_size=8, **LAYERS, **words)),
    "MultiModalTransformer": tiny_of(MultiModalTransformer, MultiModalConfig),
}
OTHERS = {
    "OmniLatentModel": tiny_of(OmniLatentModel, OmniLatentConfig),
    "OmniNetModel": tiny_of(OmniNetModel, OmniNetConfig),
    "AudioVisualAligner": small_aligner,
    "TokenDecoder": lambda **words: TokenDecoder(DecoderConfig(**LAYERS, **words)),
    "MultiModalForCaptioning": tiny_of(MultiModalForCaptioning, MultiModalConfig),
}
MODELS = RELATIVE | OTHERS
REFUSED = [(name, kernel) for name in MODELS for kernel in ("sparse", "linear", "performer", "nonsense")]
REFUSED += [(name, "relative") for name in OTHERS]


def configs(config):
    parts = (getattr(config, name) for name in config.sub_configs)
    return [config, *(part for part in parts if part is not None)]


@pytest.mark.parametrize(("name", "kernel"), REFUSED)
def test_a_kernel_that_cannot_be_used_is_refused_at_construction_and_when_it_is_set(name, kernel):
    message = f'Specified .attn_implementation="{kernel}". is not supported by {name}: choose one of .eager.*sdpa'
    with pytest.raises(ValueError, match=message) as error:
        MODELS[name](attn_implementation=kernel)
    listed = str(error.value).partition("choose one of")[2]
    assert ("'relative'" in listed) == (name in RELATIVE)
    assert "'sparse'" not in listed and "'linear'" not in listed and "paged" not in listed
    assert ("'flash_attention_2'" in listed) == MODELS[name]()._supports_flash_attn
    assert ("AttentionConfig" in listed) == (kernel not in ("nonsense", "relative"))

    model = MODELS[name]()
    before = [config._attn_implementation for config in configs(model.config)]
    with pytest.raises(ValueError, match=message):
        model.set_attn_implementation(kernel)
    assert [config._attn_implementation for config in configs(model.config)] == before


@pytest.mark.parametrize("name", RELATIVE)
def test_models_that_look_a_bias_up_take_its_kernel(name):
    assert RELATIVE[name](attn_implementation="relative").config._attn_implementation == "relative"
    model = RELATIVE[name]()
    model.set_attn_implementation("relative")
    assert model.config._attn_implementation == "relative"


def test_a_saved_model_refuses_it_when_it_is_loaded(tmp_path):
    RelPosViTModel(RelPosViTConfig.tiny()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match='"sparse". is not supported by RelPosViTModel'):
        AutoModel.from_pretrained(tmp_path, attn_implementation="sparse")


def test_a_kernel_that_a_user_registers_is_taken_and_listed():
    ALL_ATTENTION_FUNCTIONS.register("homemade", ALL_ATTENTION_FUNCTIONS["sdpa"])
    try:
        model = RelPosViTModel(RelPosViTConfig.tiny(attn_implementation="homemade"))
        assert model(torch.zeros(1, 3, 24, 32)).pooler_output.shape == (1, 32)
        with pytest.raises(ValueError, match="'homemade', 'relative'|'relative', .*'homemade'"):
            model.set_attn_implementation("nonsense")
    finally:
        del ALL_ATTENTION_FUNCTIONS._global_mapping["homemade"]


@pytest.fixture
def fetched(monkeypatch):
    """Names of kernels that the Hub was asked for; each is sdpa."""
    names = []

    def fetch(name, **words):
        names.append(name)
        ALL_ATTENTION_FUNCTIONS.register(name, ALL_ATTENTION_FUNCTIONS["sdpa"])

    monkeypatch.setattr("transformers.modeling_utils.lazy_import_flash_attention", fetch)
    yield names
    for name in names:
        ALL_ATTENTION_FUNCTIONS._global_mapping.pop(name, None)


@pytest.mark.parametrize("name", MODELS)
def test_flash_attention_of_the_hub_is_refused_before_it_is_fetched(name, fetched):
    hub = "kernels-community/flash-attn2"
    with pytest.raises(ValueError, match=f'"{hub}". is not supported by {name}: choose one of .eager.*sdpa'):
        MODELS[name](attn_implementation=hub)
    model = MODELS[name]()
    with pytest.raises(ValueError, match=f'"{hub}". is not supported by {name}'):
        model.set_attn_implementation(hub)
    assert fetched == []


def test_another_kernel_of_the_hub_is_taken(fetched):
    model = RelPosViTModel(RelPosViTConfig.tiny(attn_implementation="someone/attention"))
    assert model.config._attn_implementation == "someone/attention" and fetched == ["someone/attention"]
    assert model(torch.zeros(1, 3, 24, 32)).pooler_output.shape == (1, 32)


# --- weights are asked for, and the kernel makes none


@pytest.mark.parametrize("name", ["RelPosViTModel", "RelPosViTForImageClassification", "TokenEncoder"])
def test_the_kernel_without_weights_says_how_to_get_them(name):
    model, pixels = RELATIVE[name](attn_implementation="relative"), torch.zeros(1, 3, 16, 16)
    with pytest.raises(ValueError, match='set_attn_implementation."eager".'):
        model(pixel_values=pixels, output_attentions=True)
    model.set_attn_implementation("eager")
    assert len(model(pixel_values=pixels, output_attentions=True).attentions) == model.config.num_hidden_layers


def test_a_config_that_asks_for_weights_refuses_the_kernel_without():
    model = RelPosViTModel(RelPosViTConfig.tiny(output_attentions=True, attn_implementation="eager"))
    with pytest.raises(ValueError, match='set_attn_implementation."eager".'):
        model.set_attn_implementation("relative")
