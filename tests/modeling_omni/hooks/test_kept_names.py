"""Hooks on a layer do not show in the names of what is in the layer."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from omnilatent import LatentHookConfig

SIZES = dict(vocab_size=99, hidden_size=24, num_hidden_layers=3, num_attention_heads=4, intermediate_size=40)
OPEN = dict(num_tokens=3, transform_dim=5, init_weights=False)


def make_base(seed=0):
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2)).eval()


def lora():
    return LoraConfig(target_modules=["q_proj", "mlp.down_proj"], init_lora_weights=False)


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
    assert own(name for name, _ in base.named_modules()) == modules | {f"model.layers.{i}.base_layer" for i in (0, 2)}
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
