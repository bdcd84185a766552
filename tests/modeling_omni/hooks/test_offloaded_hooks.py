"""Hooks in models whose weights accelerate keeps elsewhere until they are needed."""

import accelerate
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from omnilatent import LatentHookConfig

SIZES = dict(vocab_size=99, hidden_size=24, num_hidden_layers=3, num_attention_heads=4, intermediate_size=40)
OPEN = dict(num_tokens=3, transform_dim=5, init_weights=False)
IDS = torch.arange(3, 17).view(2, 7)
SPREAD = {"model.layers.0": "disk", "model.layers.1": "cpu", "model.layers.2": "disk"}


def make_base():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2)).eval()


def to_memory(model, folder):
    accelerate.cpu_offload(model, execution_device="cpu")


def to_disk(model, folder):
    accelerate.disk_offload(model, folder, execution_device="cpu")


def spread(model, folder):
    rest = {name: "cpu" for name in ("model.embed_tokens", "model.rotary_emb", "model.norm", "lm_head")}
    accelerate.dispatch_model(model, {**rest, **SPREAD}, main_device="cpu", offload_dir=folder, force_hooks=True)


WAYS = pytest.mark.parametrize("offload", [to_memory, to_disk, spread])


@torch.no_grad()
def logits(model):
    return model(IDS).logits


@WAYS
@pytest.mark.parametrize("adapters", [1, 2])
def test_hooks_are_offloaded_with_their_layers(offload, adapters, tmp_path):
    base = make_base()
    plain = logits(base)
    names = [f"hook{index}" for index in range(adapters)]
    for name in names:
        base.add_adapter(LatentHookConfig(**OPEN), name)
    base.set_adapter(names)
    expected = logits(base)
    offload(base, tmp_path)
    assert base.model.layers[0].latent_hooks.latent_hook_tokens[names[0]].device.type == "meta"
    for _ in range(2):  # what was loaded has gone again
        torch.testing.assert_close(logits(base), expected)
        assert base.model.layers[0].latent_hooks.latent_hook_tokens[names[0]].device.type == "meta"
    base.disable_adapters()
    torch.testing.assert_close(logits(base), plain)


@WAYS
def test_hooks_join_a_model_that_is_offloaded(offload, tmp_path):
    base = make_base()
    expected_base = logits(base)
    other = make_base()
    other.add_adapter(LatentHookConfig(**OPEN))
    state = {name: tensor for name, tensor in other.state_dict().items() if "latent_hook_" in name}
    offload(base, tmp_path)
    base.add_adapter(LatentHookConfig(**OPEN))
    assert {p.device.type for n, p in base.named_parameters() if "latent_hook_" in n} == {"cpu"}
    assert not base.load_state_dict(state, strict=False).unexpected_keys
    torch.testing.assert_close(logits(base), logits(other))
    base.disable_adapters()
    torch.testing.assert_close(logits(base), expected_base)


@pytest.mark.parametrize("order", ["hooks first", "offloaded first"])
def test_taking_hooks_off_leaves_an_offloaded_model_at_work(order, tmp_path):
    base = make_base()
    expected = logits(base)
    steps = [lambda: base.add_adapter(LatentHookConfig(**OPEN)), lambda: spread(base, tmp_path)]
    for step in steps if order == "hooks first" else reversed(steps):
        step()
    for layer in base.model.layers:
        layer.latent_hooks.release()
    torch.testing.assert_close(logits(base), expected)
    assert not any("latent_hook" in name for name in base.state_dict())
