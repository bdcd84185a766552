"""Hooks on a layer leave alone what is in it: its names, and LoRAs that were there before or come after."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from omnilatent import LatentHookConfig, LatentNeuralHook, OmniLatentConfig, OmniLatentModel

SIZES = dict(vocab_size=99, hidden_size=24, num_hidden_layers=3, num_attention_heads=4, intermediate_size=40)
OPEN = dict(num_tokens=3, transform_dim=5, init_weights=False)


def make_base(seed=0):
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2)).eval()


def lora(**settings):
    return LoraConfig(**{"target_modules": ["q_proj", "mlp.down_proj"], "init_lora_weights": False, **settings})


@torch.no_grad()
def logits(model):
    return model(torch.arange(3, 17).view(2, 7)).logits


def test_parameters_modules_and_state_dict_keep_the_names_of_the_base():
    base = make_base()
    parameters, state = dict(base.named_parameters()), base.state_dict()
    modules = {name for name, _ in base.named_modules()}
    base.add_adapter(LatentHookConfig(**OPEN, layers_to_transform=[0, 2]))
    own = lambda names: {name for name in names if "latent_hook_" not in name}  # noqa: E731
    assert own(dict(base.named_parameters())) == set(parameters)
    assert own(base.state_dict()) == set(state)
    assert all(parameter is dict(base.named_parameters())[name] for name, parameter in parameters.items())
    assert own(name for name, _ in base.named_modules()) == modules | {
        f"model.layers.{i}.latent_hooks" for i in (0, 2)
    }
    assert set(base.state_dict()) == set(dict(base.named_parameters()))
    for name, module in base.named_modules():
        assert base.get_submodule(name) is module


def test_a_hooked_model_takes_the_base_models_weights():
    base, other = make_base(), make_base(seed=1)
    expected = logits(other)
    base.add_adapter(LatentHookConfig(**OPEN))
    missing, unexpected = base.load_state_dict(other.state_dict(), strict=False)
    assert missing and all("latent_hook_" in name for name in missing) and not unexpected
    base.disable_adapters()
    torch.testing.assert_close(logits(base), expected, rtol=0, atol=0)


@pytest.mark.parametrize("prefix", ["", "wrapped."])
def test_a_hooked_models_own_state_goes_in_and_out(prefix):
    first, second = make_base(), make_base(seed=1)
    for model in (first, second):
        model.add_adapter(LatentHookConfig(**OPEN))
    if prefix:
        first, second = (torch.nn.ModuleDict({"wrapped": model}) for model in (first, second))
    second.load_state_dict(first.state_dict())
    for name, parameter in second.named_parameters():
        torch.testing.assert_close(parameter, first.get_parameter(name), rtol=0, atol=0)


@pytest.mark.parametrize("way", ["peft", "transformers"])
def test_a_lora_saved_under_hooks_is_found_without_them(way, tmp_path):
    base = make_base()
    if way == "peft":
        model = get_peft_model(base, lora(), adapter_name="under").eval()
        expected = logits(model)
        base.add_adapter(LatentHookConfig(**OPEN), "hook")
        model.save_pretrained(tmp_path, selected_adapters=["under"])
    else:
        base.add_adapter(lora(), "under")
        expected = logits(base)
        base.add_adapter(LatentHookConfig(**OPEN), "hook")
        base.set_adapter("under")
        base.save_pretrained(tmp_path / "under")
    fresh = make_base()
    torch.manual_seed(7)  # the start of a LoRA that finds no weights would be another
    if way == "peft":
        fresh = PeftModel.from_pretrained(fresh, tmp_path / "under")
    else:
        fresh.load_adapter(str(tmp_path / "under"))
    torch.testing.assert_close(logits(fresh), expected, rtol=0, atol=0)


def test_a_set_is_saved_in_one_go_and_loaded_in_order(tmp_path):
    base = make_base()
    model = get_peft_model(base, lora(), adapter_name="under").eval()
    base.add_adapter(LatentHookConfig(**OPEN), "one")
    base.add_adapter(LatentHookConfig(**OPEN), "two")
    base.set_adapter(["under", "one", "two"])
    expected = logits(model)
    model.save_pretrained(tmp_path)
    fresh = make_base()
    torch.manual_seed(7)
    for name in ("under", "one", "two"):
        fresh.load_adapter(str(tmp_path / name), name)
    fresh.set_adapter(["under", "one", "two"])
    torch.testing.assert_close(logits(fresh), expected, rtol=0, atol=0)


def test_taking_hooks_off_leaves_a_lora_as_it_was():
    base = make_base()
    base.add_adapter(lora(), "under")
    expected, names = logits(base), list(base.state_dict())
    base.add_adapter(LatentHookConfig(**OPEN), "hook")
    base.set_adapter("under")
    base.delete_adapter("hook")
    torch.testing.assert_close(logits(base), expected, rtol=0, atol=0)
    assert list(base.state_dict()) == names


# --- a LoRA after hooks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hooked", [[0, 2], [0, 1, 2]])
@pytest.mark.parametrize("target", [["q_proj", "down_proj"], r".*\.v_proj", "all-linear"])
def test_a_lora_after_hooks_is_on_the_same_modules_as_without_them(hooked, target):
    def adapted(model):
        model.add_adapter(lora(target_modules=target), "lora")
        return {name for name, module in model.named_modules() if hasattr(module, "lora_A")}

    base = make_base()
    base.add_adapter(LatentHookConfig(**OPEN, layers_to_transform=hooked), "hook")
    assert adapted(base) == adapted(make_base())


@pytest.mark.parametrize("way", ["peft", "transformers"])
def test_the_order_of_a_lora_and_hooks_has_no_effect(way):
    hook = LatentHookConfig(**OPEN, layers_to_transform=[0, 2])

    def build(*configs):
        base = make_base()
        for config in configs:
            name = "hook" if config is hook else "lora"
            get_peft_model(base, config, adapter_name=name) if way == "peft" else base.add_adapter(config, name)
        if way == "transformers":  # which lets only the newest work
            base.set_adapter(["hook", "lora"])
        return base

    under = lora()
    first, second = build(under, hook), build(hook, under)
    assert not torch.allclose(logits(first), logits(second), atol=1e-5)
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(logits(second), logits(first), rtol=0, atol=0)
    assert {n for n, p in first.named_parameters() if p.requires_grad} == {
        n for n, p in second.named_parameters() if p.requires_grad
    }


def test_a_lora_is_merged_under_hooks_which_stay():
    base = make_base()
    base.add_adapter(LatentHookConfig(**OPEN), "hook")
    hooked, names = logits(base), set(base.state_dict())
    model = get_peft_model(base, lora(), adapter_name="lora").eval()
    expected = logits(model)
    assert not torch.allclose(hooked, expected, atol=1e-5)
    merged = model.merge_and_unload()
    torch.testing.assert_close(logits(merged), expected, rtol=1e-5, atol=1e-6)
    assert set(merged.state_dict()) == names


def test_unloading_hooks_gives_the_base_back_from_under_a_lora():
    base = make_base()
    expected, names = logits(base), list(base.state_dict())
    model = get_peft_model(base, LatentHookConfig(**OPEN), adapter_name="hook")
    base.add_adapter(lora(), "lora")
    unloaded = model.unload()
    assert unloaded is base and list(base.state_dict()) == names
    torch.testing.assert_close(logits(base), expected, rtol=0, atol=0)


def test_omnilatent_takes_a_lora_after_hooks():
    torch.manual_seed(0)
    model = OmniLatentModel(OmniLatentConfig.tiny()).eval()
    image = torch.randn(2, 3, 32, 32)
    model.register_hook(LatentNeuralHook("style", num_tokens=3, dim=model.config.hidden_size, gate_bias_init=0.0))
    with torch.no_grad():
        hooked = model("image", image, "audio").output
        model.add_adapter(LoraConfig(target_modules="all-linear", init_lora_weights=False), "lora")
        assert any("lora_A" in name and ".layers." in f".{name}" for name in model.state_dict())
        assert not any("latent_hook" in name and "lora_" in name for name in model.state_dict())
        model.set_adapter(["style", "lora"])
        both = model("image", image, "audio").output
        model.set_adapter("style")
        torch.testing.assert_close(model("image", image, "audio").output, hooked, rtol=0, atol=0)
    assert not torch.allclose(both, hooked, atol=1e-5)
