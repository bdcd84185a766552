"""What hooks refuse leaves the model as it was; what would go wrong without a word is refused."""

import threading

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from omnilatent import LatentHookConfig, LatentNeuralHook, OmniLatentConfig, OmniLatentModel

SIZES = dict(vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4)
IDS = torch.arange(14).view(2, 7)


@pytest.fixture
def base():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()


@pytest.mark.parametrize(
    ("name", "settings", "error", "message"),
    [
        ("training", {}, ValueError, "'training'.*choose another"),
        ("good", {"init": "states", "init_states_path": "nowhere.safetensors"}, FileNotFoundError, "nowhere"),
        ("good", {"target_modules": ["self_attn"]}, ValueError, r"part of one.*model\.layers\.0"),
    ],
)
def test_after_a_failed_attachment_the_model_is_as_before(base, name, settings, error, message):
    before = base(IDS).logits
    with pytest.raises(error, match=message):
        base.add_adapter(LatentHookConfig(**settings), name)
    assert torch.equal(base(IDS).logits, before)
    assert not any("latent_hook" in key for key in base.state_dict())
    base.add_adapter(LatentHookConfig(), "good")


@pytest.mark.parametrize(
    "settings", [{"num_tokens": 2.5}, {"num_tokens": True}, {"transform_dim": 0}, {"gate_bias_init": float("nan")}]
)
def test_numbers_that_make_no_hook_are_refused(settings):
    with pytest.raises(ValueError, match=f"`{next(iter(settings))}` is"):
        LatentHookConfig(**settings)


def test_a_hook_belongs_to_one_model():
    models = [OmniLatentModel(OmniLatentConfig.tiny()) for _ in range(2)]
    hook = LatentNeuralHook("style", num_tokens=2, dim=models[0].config.hidden_size)
    models[0].register_hook(hook)
    with pytest.raises(ValueError, match="'style' is registered already"):
        models[1].register_hook(hook)
    models[0].remove_hook("style")
    models[1].register_hook(hook)


def test_data_parallel_copies_are_refused(base):
    model = get_peft_model(base, LatentHookConfig(num_tokens=2))
    with pytest.raises(RuntimeError, match="DistributedDataParallel"):
        for module in model.modules():  # as torch.nn.parallel.replicate does
            module._replicate_for_data_parallel()


def test_a_second_thread_is_refused_and_harms_nothing(base):
    model = get_peft_model(base, LatentHookConfig(num_tokens=2, init_weights=False))
    expected = model(IDS).logits
    entered, go_on = threading.Event(), threading.Event()

    def wait(module, args):
        entered.set()
        assert go_on.wait(30)

    handle = base.model.layers[1].register_forward_pre_hook(wait)
    found = []
    thread = threading.Thread(target=lambda: found.append(model(IDS).logits))
    thread.start()
    assert entered.wait(30)
    with pytest.raises(RuntimeError, match="second thread"):
        model(IDS)
    go_on.set()
    thread.join()
    handle.remove()
    assert torch.equal(found[0], expected)
    assert torch.equal(model(IDS).logits, expected)


def test_states_of_an_interrupted_call_are_not_used_by_the_next(base):
    model = get_peft_model(base, LatentHookConfig(num_tokens=2, init_weights=False))
    expected = model(IDS).logits

    def interrupt(module, args):
        raise KeyboardInterrupt

    handle = base.model.layers[1].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        model(IDS, hook_states={"default": torch.randn(4, 32)})
    handle.remove()
    assert torch.equal(model(IDS).logits, expected)


def test_a_lora_beneath_comes_off_and_the_hooks_stay(base):
    lora = get_peft_model(base, LoraConfig(r=4, init_lora_weights=False))
    get_peft_model(base, LatentHookConfig(num_tokens=2, init_weights=False))
    with_both = base(IDS).logits
    lora.unload()
    assert not any("lora" in key for key in base.state_dict())
    assert any("latent_hook" in key for key in base.state_dict())
    assert not torch.allclose(base(IDS).logits, with_both)


def test_a_misspelt_setting_is_named_with_the_one_that_was_meant():
    with pytest.raises(ValueError, match="'gate_bias'. Did you mean 'gate_bias_init'"):
        LatentNeuralHook("style", dim=48, gate_bias=0.0)


@pytest.mark.parametrize("training", [True, False])
def test_labels_without_the_mask_of_the_prompt_are_refused(base, training):
    model = get_peft_model(base, LatentHookConfig(num_tokens=2, reads="prompt")).train(training)
    with pytest.raises(ValueError, match="hook_read_mask.*remove_unused_columns=False"):
        model(input_ids=IDS, labels=IDS)
    assert model(input_ids=IDS, labels=IDS, hook_read_mask=torch.ones_like(IDS)).loss > 0


def test_saving_hooks_alone_says_what_else_was_trained(tmp_path, recwarn):
    for frozen in (True, False):
        model = OmniLatentModel(OmniLatentConfig.tiny()).requires_grad_(not frozen)
        model.register_hook(LatentNeuralHook("style", num_tokens=2, dim=model.config.hidden_size))
        recwarn.clear()
        model.save_pretrained(tmp_path / str(frozen))
        assert any("hooks alone" in str(warning.message) for warning in recwarn) != frozen


def test_the_configs_help_is_its_docstring():
    lines = LatentHookConfig.__doc__.splitlines()
    assert "Args:" in lines
    assert any(line.startswith("    num_tokens: Hook tokens") for line in lines)


def test_rotary_positions_of_another_form_are_refused(base):
    get_peft_model(base, LatentHookConfig(num_tokens=2))
    layer, states = base.model.layers[0], torch.randn(2, 7, 32)
    for rotary in (torch.randn(1, 7, 8), {"cos": torch.randn(1, 7, 8)}):
        with pytest.raises(ValueError, match="pair of cosines and sines"):
            layer(states, position_embeddings=rotary)
