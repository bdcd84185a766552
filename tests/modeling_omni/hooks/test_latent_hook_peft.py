"""Hooks are handled as every PEFT method is, by peft and by transformers."""

import copy
import pickle
import warnings

import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel, PeftType, get_peft_model
from peft.utils.hotswap import hotswap_adapter
from safetensors.torch import save_file
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from omnilatent import LatentHookConfig, OmniLatentTokenizer
from omnilatent.modeling_omni.hooks.hook_masks import own_mask
from omnilatent.registration import register_latent_hooks

SIZES = dict(vocab_size=99, hidden_size=24, num_hidden_layers=3, num_attention_heads=4, intermediate_size=40)
OPEN = dict(num_tokens=3, transform_dim=5, init_weights=False)


@pytest.fixture
def base():
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=None)
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def ids():
    return torch.randint(3, 99, (4, 7), generator=torch.Generator().manual_seed(1))


def hook(**settings):
    return LatentHookConfig(**{**OPEN, **settings})


@torch.no_grad()
def logits(model, ids, **kwargs):
    return model(ids, **kwargs).logits


def two_hooks(base):
    model = get_peft_model(base, hook(), adapter_name="one")
    model.add_adapter("two", hook(num_tokens=2, target_modules=["layers.1", "layers.2"]))
    return model.eval()


# --- the type ----------------------------------------------------------------------------------------------------


def test_the_adapter_type_is_a_member_like_any_other():
    member = PeftType("LATENT_HOOK")
    assert member is PeftType.LATENT_HOOK is PeftType["LATENT_HOOK"] and member in PeftType
    assert member.value == member == "LATENT_HOOK" and member.name == "LATENT_HOOK"
    assert pickle.loads(pickle.dumps(member)) is member and copy.deepcopy(member) is member
    assert list(PeftType)[-1] is member


def test_registering_twice_changes_nothing():
    before = list(PeftType)
    register_latent_hooks()
    assert list(PeftType) == before


def test_a_config_comes_back_from_disk_as_it_was(tmp_path):
    config = hook(target_modules=r".*layers\.(0|2)", gate_bias_init=-2.5, reads="prompt", task_type="CAUSAL_LM")
    config.save_pretrained(tmp_path)
    loaded = PeftConfig.from_pretrained(tmp_path)
    assert type(loaded) is LatentHookConfig and loaded.to_dict() == config.to_dict()


def test_every_field_of_the_config_has_help():
    own = LatentHookConfig.__annotations__
    fields = LatentHookConfig.__dataclass_fields__
    assert all(len(fields[name].metadata["help"]) > 20 for name in own)


# --- peft --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0, 1, 2]),
        ({"layers_to_transform": 1}, [1]),
        ({"layers_to_transform": [0, 2]}, [0, 2]),
        ({"target_modules": r"model\.layers\.[12]"}, [1, 2]),
        ({"target_modules": ["layers.0", "model.layers.2"]}, [0, 2]),
    ],
)
def test_layers_are_named_by_regex_list_or_index(base, settings, expected):
    get_peft_model(base, hook(**settings))
    assert [i for i, layer in enumerate(base.model.layers) if hasattr(layer, "latent_hooks")] == expected


def test_one_config_serves_models_of_any_width():
    config = hook()
    for width in (24, 32):
        model = LlamaForCausalLM(LlamaConfig(**{**SIZES, "hidden_size": width}, num_key_value_heads=2))
        assert get_peft_model(model, config).peft_config["default"].hidden_size == width


def test_the_state_passes_over_layers_that_are_not_hooked(base, ids):
    model = get_peft_model(base, hook(layers_to_transform=[0, 2])).eval()
    before = logits(model, ids)
    with torch.no_grad():
        base.model.layers[2].latent_hooks.latent_hook_gate["default"].fill_(-30.0)  # layer 2 no longer hears its hooks
    assert not torch.allclose(logits(model, ids), before, atol=1e-4)


def test_adapters_are_set_one_or_several_at_a_time(base, ids):
    alone = logits(base, ids)
    model = two_hooks(base)
    one = logits(model, ids)
    model.set_adapter("two")
    two = logits(model, ids)
    model.base_model.set_adapter(["two", "one"])
    both = logits(model, ids)
    for first, second in ((alone, one), (one, two), (two, both), (one, both)):
        assert not torch.allclose(first, second, atol=1e-5)
    model.set_adapter("one")
    torch.testing.assert_close(logits(model, ids), one, rtol=0, atol=0)
    assert model.get_model_status().available_adapters == ["one", "two"]


def test_several_hooks_see_each_other(base, ids):
    """Content does not hear "two", whose gate is shut: it can only work through "one"."""
    model = get_peft_model(base, hook(layers_to_transform=[0, 1]), adapter_name="one")
    model.add_adapter("two", hook(layers_to_transform=[0]))
    with torch.no_grad():
        base.model.layers[0].latent_hooks.latent_hook_gate["two"].fill_(-60.0)
    one = logits(model.eval(), ids)
    model.base_model.set_adapter(["one", "two"])
    assert not torch.allclose(logits(model, ids), one, atol=1e-5)


def test_the_order_of_registration_has_no_effect(base, ids):
    settings = {"one": hook(), "two": hook(num_tokens=2, layers_to_transform=[1, 2])}

    def build(*names):
        model = get_peft_model(copy.deepcopy(base), settings[names[0]], adapter_name=names[0])
        model.add_adapter(names[1], settings[names[1]])
        model.base_model.set_adapter(list(names))
        return model.eval()

    first, second = build("one", "two"), build("two", "one")
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(logits(second, ids), logits(first, ids), rtol=0, atol=0)


def test_deleting_leaves_the_other_adapter_as_it_was(base, ids):
    model = two_hooks(base)
    model.set_adapter("two")
    two = logits(model, ids)
    model.delete_adapter("one")
    torch.testing.assert_close(logits(model, ids), two, rtol=0, atol=0)
    assert not [name for name in model.state_dict() if ".one" in name]


def test_rows_of_a_batch_may_have_different_adapters(base, ids):
    alone = logits(base, ids)
    model = two_hooks(base)
    one = logits(model, ids)
    model.set_adapter("two")
    two = logits(model, ids)
    mixed = logits(model, ids, adapter_names=["one", "__base__", "two", "one"])
    torch.testing.assert_close(mixed, torch.stack([one[0], alone[1], two[2], one[3]]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logits(model, ids), two, rtol=0, atol=0)
    with pytest.raises(ValueError, match="three"):
        logits(model, ids, adapter_names=["one", "three", "two", "one"])
    for names in (["one", "two"], ["__base__", "__base__"]):
        with pytest.raises(ValueError, match="2 and 4"):
            logits(model, ids, adapter_names=names)


@pytest.mark.parametrize("beams", [1, 2])
def test_rows_of_a_generation_may_have_different_adapters(base, ids, beams):
    model = two_hooks(base)
    settings = dict(max_new_tokens=4, do_sample=False, num_beams=beams)
    one = model.generate(input_ids=ids, **settings)
    model.set_adapter("two")
    two = model.generate(input_ids=ids, **settings)
    mixed = model.generate(input_ids=ids, adapter_names=["two", "one", "one", "two"], **settings)
    assert torch.equal(mixed, torch.stack([two[0], one[1], one[2], two[3]]))


def test_modules_to_save_are_trained_and_saved_beside_the_hooks(tmp_path):
    torch.manual_seed(0)
    base = BertForSequenceClassification(BertConfig(**SIZES, num_labels=3)).eval()
    untouched = copy.deepcopy(base)
    model = get_peft_model(base, hook(task_type="SEQ_CLS")).eval()
    assert any(p.requires_grad for n, p in model.named_parameters() if "classifier" in n)
    with torch.no_grad():
        model.base_model.model.classifier.modules_to_save["default"].weight.add_(1.0)
    ids = torch.randint(3, 99, (2, 5))
    expected = logits(model, ids)
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(logits(PeftModel.from_pretrained(untouched, tmp_path), ids), expected)


def test_an_adapter_loads_without_memory_for_its_random_start(base, ids, tmp_path):
    model = get_peft_model(copy.deepcopy(base), hook()).eval()
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base, tmp_path, low_cpu_mem_usage=True)
    torch.testing.assert_close(logits(loaded, ids), logits(model, ids))


def test_lora_works_underneath(base, ids):
    model = get_peft_model(base, LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    with_lora = logits(model.eval(), ids)
    base.add_adapter(hook(), "hook")
    assert not torch.allclose(logits(base, ids), with_lora, atol=1e-5)


def test_what_cannot_be_says_so(base, ids, tmp_path):
    model = get_peft_model(base, hook())
    before = logits(model, ids)
    for call in (model.merge_adapter, model.merge_and_unload, model.unmerge_adapter):
        with pytest.raises(NotImplementedError, match="cannot be merged"):
            call()
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="[Hh]otswap"):
        hotswap_adapter(model, str(tmp_path), adapter_name="default")
    torch.testing.assert_close(logits(model, ids), before, rtol=0, atol=0)


def test_a_copy_and_a_pickle_are_models_of_their_own(base, ids):
    model = get_peft_model(base, hook()).eval()
    before = logits(model, ids)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(logits(twin, ids), before, rtol=0, atol=0)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.zero_()
        torch.testing.assert_close(logits(model, ids), before, rtol=0, atol=0)


@pytest.fixture
def tokenizer(tmp_path):
    OmniLatentTokenizer(special_token_offset=300).save_pretrained(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


def test_hooks_start_from_text(tokenizer):
    torch.manual_seed(0)
    base = BertForSequenceClassification(BertConfig(**{**SIZES, "vocab_size": 260}))
    config = hook(num_tokens=5, init="text", init_text="abc", tokenizer_name_or_path=tokenizer)
    get_peft_model(base, config)
    ids = torch.tensor([100, 101, 102, 100, 101])  # the byte-level tokenizer's "abcab"
    expected = base.get_input_embeddings().weight[ids]
    tokens = base.bert.encoder.layer[0].latent_hooks.latent_hook_tokens["default"]
    torch.testing.assert_close(tokens.detach(), expected, rtol=0, atol=0)


def test_hooks_start_from_states_and_load_without_them(base, ids, tmp_path):
    states, path = torch.randn(3, 24), tmp_path / "states.safetensors"
    save_file({"states": states}, path)
    model = get_peft_model(copy.deepcopy(base), hook(init="states", init_states_path=str(path))).eval()
    tokens = model.base_model.model.model.layers[0].latent_hooks.latent_hook_tokens["default"]
    torch.testing.assert_close(tokens.detach(), states, rtol=0, atol=0)
    model.save_pretrained(tmp_path)
    path.unlink()
    loaded = PeftModel.from_pretrained(base, tmp_path, is_trainable=True)
    torch.testing.assert_close(logits(loaded, ids), logits(model, ids), rtol=0, atol=0)


def test_states_of_another_shape_are_refused(base, tmp_path):
    path = str(tmp_path / "states.safetensors")
    save_file({"states": torch.randn(2, 24)}, path)
    with pytest.raises(ValueError, match=r"\(2, 24\).*\(3, 24\)"):
        get_peft_model(base, hook(init="states", init_states_path=path))
    save_file({"hidden": torch.randn(3, 24)}, path)
    with pytest.raises(ValueError, match="hidden"):
        get_peft_model(base, hook(init="states", init_states_path=path))


# --- transformers ------------------------------------------------------------------------------------------------


def test_transformers_own_methods_work(base, ids, tmp_path):
    alone = logits(base, ids)
    base.add_adapter(hook(), "one")
    one = logits(base, ids)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft is surprised at a second adapter
        base.add_adapter(hook(), "two")
    two = logits(base, ids)
    base.set_adapter(["one", "two"])
    both = logits(base, ids)
    assert base.active_adapters() == ["one", "two"]
    base.disable_adapters()
    torch.testing.assert_close(logits(base, ids), alone, rtol=0, atol=0)
    base.enable_adapters()
    torch.testing.assert_close(logits(base, ids), both, rtol=0, atol=0)
    base.set_adapter("one")
    torch.testing.assert_close(logits(base, ids), one, rtol=0, atol=0)
    base.save_pretrained(tmp_path)
    base.delete_adapter("one")
    base.set_adapter("two")
    torch.testing.assert_close(logits(base, ids), two, rtol=0, atol=0)
    base.delete_adapter("two")
    base.load_adapter(str(tmp_path), "again")
    torch.testing.assert_close(logits(base, ids), one, rtol=0, atol=0)


# --- the layer ---------------------------------------------------------------------------------------------------


def test_recorded_hidden_states_are_those_of_the_content(base, ids):
    embedded = base.model.embed_tokens(ids)
    base(ids, output_hidden_states=True)  # installs the recorders before the hooks, too
    model = get_peft_model(base, hook(num_tokens=2)).eval()
    states = model(ids, output_hidden_states=True).hidden_states
    assert [tuple(state.shape) for state in states] == [(4, 7, 24)] * 4
    torch.testing.assert_close(states[0], embedded, rtol=0, atol=0)


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_kernels_agree(base, ids, kernel):
    model = get_peft_model(base, hook()).eval()
    expected = logits(model, ids)
    base.set_attn_implementation(kernel)
    torch.testing.assert_close(logits(model, ids), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mask", [torch.ones(2, 5), "a block mask"])
def test_a_kernel_without_a_full_mask_is_refused(mask):
    with pytest.raises(ValueError, match="sdpa"):
        own_mask(mask, torch.zeros(2, 5, 3), keys=5, causal=True)


@pytest.mark.parametrize("kernel", ["flash_attention_2", "kernels-community/flash-attn3", "flex_attention"])
def test_kernels_without_a_full_mask_are_refused_early_and_when_set_later(base, ids, kernel):
    base.config._attn_implementation = kernel  # setting it properly asks for the package
    names = list(base.state_dict())
    with pytest.raises(ValueError, match=f"{kernel}.*'sdpa'"):
        base.add_adapter(hook())
    assert list(base.state_dict()) == names and not base._hf_peft_config_loaded
    base.config._attn_implementation = "sdpa"
    base.add_adapter(hook())
    base.config._attn_implementation = kernel
    with pytest.raises(ValueError, match=f"{kernel}.*'sdpa'"):
        base(ids)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_does_not_change_gradients(base, ids, reentrant):
    model = get_peft_model(base, hook()).train()

    def gradients():
        model.zero_grad()
        model(ids, labels=ids, use_cache=False).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    plain = gradients()
    model.enable_input_require_grads()
    base.gradient_checkpointing_enable({"use_reentrant": reentrant})
    checkpointed = gradients()
    assert len(plain) > 10 and plain.keys() == checkpointed.keys()
    for name in plain:
        torch.testing.assert_close(checkpointed[name], plain[name], rtol=0, atol=0)


def test_the_slot_is_empty_after_a_forward_also_after_a_broken_one(base, ids):
    model = get_peft_model(base, hook())
    chain = base.model.latent_hook_chain
    model(ids)
    assert not chain.states
    with pytest.raises(RuntimeError):
        base.model.norm.weight.data = torch.ones(5)
        model(ids)
    assert not chain.states


def test_bfloat16_models_and_autocast_work_with_padding(base, ids):
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    model = get_peft_model(base, hook()).eval()
    expected = logits(model, ids, attention_mask=mask)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(
            logits(model, ids, attention_mask=mask)[1:].float(), expected[1:], atol=0.05, rtol=0.05
        )
    base.to(torch.bfloat16)
    assert logits(model, ids, attention_mask=mask).isfinite().all()


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_tokens": 0}, "num_tokens"),
        ({"transform_dim": -1}, "transform_dim"),
        ({"reads": "everything"}, "everything"),
        ({"format_version": 99}, "upgrade"),
        ({"init": "zeros"}, "zeros"),
        ({"init": "text", "init_text": "abc"}, "tokenizer_name_or_path"),
        ({"init_states_path": "states.safetensors"}, "init_states_path"),
    ],
)
def test_settings_that_make_no_hook_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LatentHookConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "name", "message"),
    [
        ({"layers_to_transform": [1, 7]}, "new", "no layer 7.*0, 1, 2"),
        ({"target_modules": ["layers.1", "blocks.4"]}, "new", "blocks.4"),
        ({"target_modules": r"encoder\..*"}, "new", "encoder"),
        ({"target_modules": ["q_proj"]}, "new", "whole transformer layers"),
        ({"hidden_size": 32}, "new", "32 wide.* 24"),
        ({}, "new.name", "dot"),
        ({}, "one", "one"),
    ],
)
@pytest.mark.parametrize("way", ["peft", "transformers"])
def test_what_does_not_fit_is_refused_and_the_model_is_as_before(base, ids, settings, name, message, way):
    if way == "peft":
        model = get_peft_model(base, hook(), adapter_name="one").eval()
        add = lambda: model.add_adapter(name, hook(**settings))  # noqa: E731
    else:
        model = base
        model.add_adapter(hook(), "one")
        add = lambda: model.add_adapter(hook(**settings), name)  # noqa: E731
    before, names = logits(model, ids), list(model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft is surprised at a second adapter
        with pytest.raises(ValueError, match=message):
            add()
    assert list(model.peft_config) == ["one"] and list(model.state_dict()) == names
    torch.testing.assert_close(logits(model, ids), before, rtol=0, atol=0)


def test_an_adapter_of_another_width_is_refused(base, tmp_path):
    wide = LlamaForCausalLM(LlamaConfig(**{**SIZES, "hidden_size": 32}, num_key_value_heads=2))
    get_peft_model(wide, hook()).save_pretrained(tmp_path)
    names = list(base.state_dict())
    for load in (lambda: PeftModel.from_pretrained(base, tmp_path), lambda: base.load_adapter(str(tmp_path))):
        with pytest.raises(ValueError, match="32 wide.* 24"):
            load()
        assert list(base.state_dict()) == names and not base._hf_peft_config_loaded


def test_a_prompt_must_be_marked_where_nothing_else_tells(base, ids):
    model = get_peft_model(base, hook(reads="prompt")).train()
    with pytest.raises(ValueError, match="hook_read_mask"):
        model(ids)
    with pytest.raises(ValueError, match=r"\(4, 5\).*\(4, 7\)"):
        model(ids, hook_read_mask=torch.ones(4, 5))


def test_generation_reads_the_prompt_and_a_marked_prompt_says_the_same(base, ids):
    model = get_peft_model(base, hook(reads="prompt")).eval()
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    settings = dict(max_new_tokens=4, do_sample=False, return_dict_in_generate=True, output_logits=True)
    cached = model.generate(input_ids=ids, attention_mask=mask, **settings)
    marks = torch.cat([mask, torch.zeros(4, 4, dtype=torch.long)], dim=1)
    real = torch.cat([mask, torch.ones(4, 4, dtype=torch.long)], dim=1)
    position_ids = (real.cumsum(-1) - 1).clamp(min=0)
    whole = logits(
        model, cached.sequences, attention_mask=real, hook_read_mask=marks, position_ids=position_ids, use_cache=False
    )
    torch.testing.assert_close(torch.stack(cached.logits, dim=1), whole[:, 6:-1], rtol=1e-4, atol=1e-5)


# --- training ----------------------------------------------------------------------------------------------------


def test_a_hook_teaches_a_frozen_model(ids):
    """From its silent start, gates opening as it learns."""
    torch.manual_seed(0)
    # weights of a usual start are too faint for anything to steer the model
    base = LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2, initializer_range=0.2))
    model = get_peft_model(base, LatentHookConfig(num_tokens=4, transform_dim=8)).train()
    labels = torch.full_like(ids, 42)  # whatever comes, say 42
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for _ in range(40):
        loss = model(ids, labels=labels, use_cache=False).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[0] > 4.5 and losses[-1] < 3.3, (losses[0], losses[-1])  # knowing nothing costs ln(99) = 4.6
    assert all(layer.latent_hooks.latent_hook_gate["default"] > -4.0 for layer in base.model.layers)
