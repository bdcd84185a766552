"""The multimodal models under torch.export, torch.compile, LoRA and Latent Neural Hooks."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from omnilatent import (
    LatentHookConfig,
    MultiModalForClassification,
    MultiModalForConditionalGeneration,
    MultiModalForRetrieval,
)

from .conftest import LAYERS, make_config, make_inputs, randomise

ANSWERS = torch.tensor([[9, 8, 2], [7, 2, -100]])
TASKS = [
    (MultiModalForClassification, {"labels": torch.tensor([1, 2])}),
    (MultiModalForRetrieval, {}),
    (MultiModalForConditionalGeneration, {"labels": ANSWERS}),
]


def make(cls, position="learned"):
    torch.manual_seed(0)
    layers = {**LAYERS, "num_hidden_layers": 1}
    parts = {
        "text_config": {"vocab_size": 71, **layers, "position": position},
        "image_config": {"image_size": 12, "patch_size": 4, **layers, "position": position},
        "fusion": layers,
        "decoder_config": {"vocab_size": 71, **layers},
    }
    return randomise(cls(make_config(**parts)))


def padded_inputs():
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[1, 4:] = 0
    return {**make_inputs(), "attention_mask": mask}


@pytest.mark.parametrize(("cls", "words"), TASKS)
def test_compiles_as_one_graph(cls, words):
    model, words = make(cls), padded_inputs() | words
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")(**words)
    torch.testing.assert_close(compiled.loss, model(**words).loss)


@pytest.mark.parametrize("position", ["learned", "rotary", "relative"])
def test_exports(position):
    model, words = make(MultiModalForClassification, position), padded_inputs()
    exported = torch.export.export(model, (), words).module()
    words["input_ids"] = words["input_ids"].flip(0)
    torch.testing.assert_close(exported(**words).logits, model(**words).logits)


@pytest.mark.parametrize(("cls", "words"), TASKS)
def test_lora_trains_its_own_weights_alone(cls, words):
    model = get_peft_model(make(cls), LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    model(**padded_inputs(), **words).loss.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained and all("lora_" in name for name in trained)


@pytest.mark.parametrize(("cls", "words"), TASKS)
@pytest.mark.parametrize("position", ["learned", "rotary"])
def test_shut_hooks_change_nothing_and_open_ones_do(cls, words, position):
    model, words = make(cls, position), padded_inputs() | words
    before = model(**words).loss
    shut = get_peft_model(model, LatentHookConfig(num_tokens=3, gate_bias_init=-20.0))
    torch.testing.assert_close(shut(**words).loss, before, atol=1e-5, rtol=1e-5)
    opened = get_peft_model(make(cls, position), LatentHookConfig(num_tokens=3, gate_bias_init=2.0))
    loss = opened(**words).loss
    assert (loss - before).abs() > 1e-5
    loss.backward()
    hooks = [parameter for name, parameter in opened.named_parameters() if "latent_hook_" in name]
    assert hooks and any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in hooks)


@pytest.mark.parametrize("kind", ["co_attention", "bottleneck"])
def test_hooks_join_the_layers_of_fusions(kind):
    torch.manual_seed(0)
    model = randomise(MultiModalForClassification(make_config(fusion={**LAYERS, "kind": kind})))
    words = padded_inputs()
    before = model(**words).logits
    shut = get_peft_model(model, LatentHookConfig(num_tokens=3, gate_bias_init=-20.0))
    torch.testing.assert_close(shut(**words).logits, before, atol=1e-5, rtol=1e-5)
    assert not any("cross_layers" in name for name in shut.state_dict() if "latent_hook_" in name)


def test_writing_under_hooks_equals_writing_without_a_cache():
    model = get_peft_model(
        make(MultiModalForConditionalGeneration), LatentHookConfig(num_tokens=3, gate_bias_init=2.0)
    )
    words = padded_inputs() | {"max_new_tokens": 5, "min_new_tokens": 5}
    assert torch.equal(model.generate(**words), model.generate(**words, use_cache=False))
