"""States that come with a call take the place of a hook's learned tokens, in that call alone."""

import copy
import pickle

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from omnilatent import LatentHookConfig, LatentNeuralHook, OmniLatentConfig, OmniLatentModel

BATCH, LENGTH, WIDTH = 4, 7, 24
SIZES = dict(vocab_size=99, hidden_size=WIDTH, num_hidden_layers=3, num_attention_heads=4, intermediate_size=40)
LLAMA = dict(**SIZES, num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=None)
BART = dict(
    vocab_size=99,
    d_model=WIDTH,
    encoder_layers=2,
    decoder_layers=2,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    encoder_ffn_dim=40,
    decoder_ffn_dim=40,
    pad_token_id=0,
    eos_token_id=None,
    forced_eos_token_id=None,
    decoder_start_token_id=2,
)
OPEN = dict(num_tokens=3, transform_dim=5, init_weights=False)
GREEDY = dict(max_new_tokens=4, do_sample=False, return_dict_in_generate=True, output_logits=True)


@pytest.fixture
def base():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**LLAMA)).eval()


@pytest.fixture
def ids():
    return torch.randint(3, 99, (BATCH, LENGTH), generator=torch.Generator().manual_seed(1))


def hook(**settings):
    return LatentHookConfig(**{**OPEN, **settings})


def states_of(*shape):
    return torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(sum(shape)))


@torch.no_grad()
def logits(model, ids, **kwargs):
    return model(ids, **kwargs).logits


def with_tokens(model, tokens, name="default"):
    """A copy of the model that has learned these tokens."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if name in getattr(module, "latent_hook_tokens", {}):
            module.latent_hook_tokens[name] = torch.nn.Parameter(tokens)
    return model


def by_peft(base):
    return get_peft_model(base, hook(), adapter_name="facts")


def by_transformers(base):
    base.add_adapter(hook(), "facts")
    return base


WAYS = pytest.mark.parametrize("attach", [by_peft, by_transformers])


# --- in a forward ------------------------------------------------------------------------------------------------


@WAYS
@pytest.mark.parametrize("count", [1, 3, 5])
def test_states_do_what_the_same_tokens_would_if_they_were_learned(base, ids, attach, count):
    model = attach(base).eval()
    before, states = logits(model, ids), states_of(count)
    expected = logits(with_tokens(model, states, "facts"), ids)
    torch.testing.assert_close(logits(model, ids, hook_states={"facts": states}), expected)
    assert not torch.allclose(expected, before, atol=1e-4)
    torch.testing.assert_close(logits(model, ids), before, rtol=0, atol=0)
    torch.testing.assert_close(logits(model, ids, hook_states=None), before, rtol=0, atol=0)


def test_each_row_has_its_own_states(base, ids):
    model, states = by_peft(base).eval(), states_of(BATCH, 2)
    together = logits(model, ids, hook_states={"facts": states})
    for row in range(BATCH):
        alone = logits(model, ids[row : row + 1], hook_states={"facts": states[row]})
        torch.testing.assert_close(together[row], alone[0], rtol=1e-5, atol=1e-6)


def test_nothing_found_is_the_model_without_hooks(base, ids):
    without = logits(base, ids)
    model = by_peft(base).eval()
    torch.testing.assert_close(logits(model, ids, hook_states={"facts": states_of(0)}), without, rtol=1e-5, atol=1e-6)


def test_other_adapters_keep_their_tokens(base, ids):
    model = by_peft(base)
    model.add_adapter("style", hook(num_tokens=2))
    model.base_model.set_adapter(["facts", "style"])
    states = states_of(4)
    expected = logits(with_tokens(model.eval(), states, "facts"), ids)
    torch.testing.assert_close(logits(model, ids, hook_states={"facts": states}), expected)


def test_rows_with_different_adapters_take_their_states(base, ids):
    model = by_peft(base)
    model.add_adapter("style", hook(num_tokens=2))
    model.eval()
    states = states_of(BATCH, 4)
    facts = logits(model, ids, hook_states={"facts": states})
    model.set_adapter("style")
    style = logits(model, ids)
    mixed = logits(model, ids, hook_states={"facts": states}, adapter_names=["facts", "style", "facts", "style"])
    torch.testing.assert_close(mixed, torch.stack([facts[0], style[1], facts[2], style[3]]), rtol=1e-5, atol=1e-6)


def test_disabled_adapters_leave_states_unused(base, ids):
    without = logits(base, ids)
    model = by_peft(base).eval()
    with model.disable_adapter():
        off = logits(model, ids, hook_states={"facts": states_of(2)})
    torch.testing.assert_close(off, without, rtol=0, atol=0)


def test_lora_underneath_lets_states_through(base, ids):
    lora = get_peft_model(base, LoraConfig(target_modules=["q_proj"], init_lora_weights=False)).eval()
    base.add_adapter(hook(), "facts")
    states = states_of(2)
    expected = logits(with_tokens(lora, states, "facts"), ids)
    torch.testing.assert_close(logits(lora, ids, hook_states={"facts": states}), expected)


def test_an_encoder_takes_states():
    torch.manual_seed(0)
    bert = BertModel(BertConfig(**SIZES)).eval()
    model = get_peft_model(bert, hook()).eval()
    ids, states = torch.randint(3, 99, (2, 5)), states_of(2, 6)
    with torch.no_grad():
        expected = [with_tokens(model, states[row])(ids[row : row + 1]).last_hidden_state[0] for row in range(2)]
        found = model(ids, hook_states={"default": states}).last_hidden_state
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("target", ["text", "audio", "image", "video"])
def test_registered_hooks_of_omnilatent_take_states_with_every_target(target):
    torch.manual_seed(0)
    model = OmniLatentModel(OmniLatentConfig.tiny()).eval()
    width = model.config.hidden_size
    model.register_hook(LatentNeuralHook("depth", dim=width, gate_bias_init=2.0))
    image, states = torch.randn(2, 3, 32, 32), torch.randn(2, 5, width)
    with torch.no_grad():
        found = model("image", image, target, hook_states={"depth": states}).output
        expected = with_tokens(model, states[1], "depth")("image", image, target).output[1]
        assert not torch.allclose(found, model("image", image, target).output, atol=1e-4)
    torch.testing.assert_close(found[1], expected, rtol=1e-4, atol=1e-5)


# --- in a generation ---------------------------------------------------------------------------------------------


@WAYS
@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"cache_implementation": "static"}, {"use_cache": False}])
def test_every_step_of_a_generation_has_the_states(base, ids, attach, settings):
    model, states = attach(base).eval(), states_of(BATCH, 5)
    found = model.generate(input_ids=ids, hook_states={"facts": states}, **GREEDY, **settings)
    for row in range(BATCH):
        learned = with_tokens(model, states[row], "facts")
        expected = learned.generate(input_ids=ids[row : row + 1], **GREEDY, **settings)
        assert torch.equal(found.sequences[row], expected.sequences[0])
    assert not base.model.latent_hook_chain.given
    without = model.generate(input_ids=ids, **GREEDY)
    assert not torch.allclose(found.logits[0][:1], without.logits[0][:1], atol=1e-3)


def test_samples_of_one_prompt_share_its_states(base, ids):
    model, states = by_peft(base).eval(), states_of(BATCH, 5)
    settings = dict(GREEDY, do_sample=True, num_return_sequences=2)
    first = model.generate(input_ids=ids, hook_states={"facts": states}, **settings).logits[0]
    torch.testing.assert_close(first[::2], logits(model, ids, hook_states={"facts": states})[:, -1])
    torch.testing.assert_close(first[::2], first[1::2])


def test_encoder_and_decoder_have_the_states_in_a_generation():
    torch.manual_seed(0)
    base = BartForConditionalGeneration(BartConfig(**BART)).eval()
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    for layers in (r".*encoder\.layers\.\d", r".*decoder\.layers\.\d"):
        model = get_peft_model(copy.deepcopy(base), hook(target_modules=layers, task_type="SEQ_2_SEQ_LM")).eval()
        ids, states = torch.randint(3, 99, (2, LENGTH)), states_of(2, 4)
        for beams in (1, 3):
            found = model.generate(input_ids=ids, hook_states={"default": states}, num_beams=beams, **GREEDY)
            learned = with_tokens(model, states[1])
            expected = learned.generate(input_ids=ids[1:], num_beams=beams, **GREEDY)
            assert torch.equal(found.sequences[1], expected.sequences[0])
            torch.testing.assert_close(found.logits[0][beams:], expected.logits[0], rtol=1e-4, atol=1e-4)
            without = model.generate(input_ids=ids, num_beams=beams, **GREEDY)
            assert not torch.allclose(found.logits[0], without.logits[0], atol=1e-3)


@pytest.mark.parametrize("mode", ["text", "image"])
def test_omnilatents_own_generate_takes_states(mode):
    torch.manual_seed(0)
    model = OmniLatentModel(OmniLatentConfig.tiny()).eval()
    states = torch.randn(2, 5, model.config.hidden_size)
    model.register_hook(LatentNeuralHook("facts", dim=model.config.hidden_size, gate_bias_init=2.0))
    ids = torch.randint(3, 99, (2, 5))
    settings = dict(generation_mode=mode) | ({} if mode == "image" else dict(GREEDY))
    found = model.generate(ids, hook_states={"facts": states}, **settings)
    expected = with_tokens(model, states[0], "facts").generate(ids[:1], **settings)
    without = model.generate(ids, **settings)
    if mode == "text":
        found, expected, without = found.logits[-1], expected.logits[-1], without.logits[-1]
    torch.testing.assert_close(found[:1], expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, without, atol=1e-4)


@pytest.mark.parametrize("helped", ["assistant", "lookup"])
@pytest.mark.parametrize("reads", ["none", "prefix"])
def test_assisted_decoding_says_what_plain_decoding_says(base, ids, reads, helped):
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    assistant = copy.deepcopy(base)
    base.add_adapter(hook(reads=reads), "facts")
    settings = dict(input_ids=ids[:1], max_new_tokens=8, do_sample=False, hook_states={"facts": states_of(1, 2)})
    help_ = {"assistant_model": assistant} if helped == "assistant" else {"prompt_lookup_num_tokens": 2}
    plain = base.generate(**settings)
    assert torch.equal(base.generate(**settings, **help_), plain)


def test_a_first_pass_that_is_not_the_prompt_is_refused_where_the_prompt_is_read(base, ids):
    assistant = copy.deepcopy(base)
    base.add_adapter(hook(reads="prompt"), "facts")
    for help_ in ({"assistant_model": assistant}, {"prompt_lookup_num_tokens": 2}, {"prefill_chunk_size": 3}):
        with pytest.raises(ValueError, match="'facts'.*read the prompt"):
            base.generate(input_ids=ids[:1], max_new_tokens=3, **help_)


# --- in training -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reentrant", [None, True, False])
def test_what_makes_the_states_receives_gradients(base, ids, reentrant):
    encoder = torch.nn.Linear(5, 2 * WIDTH)
    values = torch.randn(BATCH, 5)
    model = by_peft(base).train()

    def gradients(**checkpointing):
        encoder.zero_grad()
        model.zero_grad()
        if checkpointing:
            model.enable_input_require_grads()
            base.gradient_checkpointing_enable(checkpointing)
        states = encoder(values).unflatten(-1, (2, WIDTH))
        model(ids, labels=ids, use_cache=False, hook_states={"facts": states}).loss.backward()
        return [p.grad.clone() for p in [*encoder.parameters(), *model.parameters()] if p.grad is not None]

    plain = gradients()
    assert plain[0].abs().sum() > 0 and base.model.layers[0].latent_hooks.latent_hook_tokens["facts"].grad is None
    if reentrant is not None:
        for found, expected in zip(gradients(use_reentrant=reentrant), plain, strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_compiled_model_is_one_graph():
    torch.manual_seed(0)
    model = OmniLatentModel(OmniLatentConfig.tiny()).eval()
    width = model.config.hidden_size
    model.register_hook(LatentNeuralHook("facts", dim=width, gate_bias_init=2.0))
    laid_out = model.lay_out_triple("image", torch.randn(2, 3, 32, 32), "audio")
    states = torch.randn(2, 5, width)
    with torch.no_grad():
        expected = model(**laid_out, hook_states={"facts": states}).output
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(**laid_out, hook_states={"facts": states}).output, expected)


# --- what must stay as it was ------------------------------------------------------------------------------------


def test_generate_is_the_models_own_again_after_unload(base):
    own = type(base).generate
    model = by_peft(base)
    assert base.generate.__func__ is not own
    assert model.unload().generate.__func__ is own and not base._forward_pre_hooks


def test_copies_and_pickles_take_states_of_their_own(base, ids):
    model, states = by_peft(base).eval(), {"facts": states_of(2)}
    expected = model.generate(input_ids=ids, hook_states=states, **GREEDY).logits[-1]
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        torch.testing.assert_close(twin.generate(input_ids=ids, hook_states=states, **GREEDY).logits[-1], expected)
        model = twin


def test_a_generation_config_may_come_by_position(base, ids):
    model, states = by_transformers(base), {"facts": states_of(BATCH, 5)}
    config = GenerationConfig(max_new_tokens=2, num_beams=3, pad_token_id=0, eos_token_id=None)
    expected = model.generate(ids, generation_config=config, hook_states=states)
    assert torch.equal(model.generate(ids, config, hook_states=states), expected)


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "message"),
    [
        ({"fact": states_of(2)}, "'fact'.*facts, style"),
        ({"style": states_of(2)}, "'style'.*not active"),
        ({"facts": torch.randn(2, 32)}, r"\(2, 32\).*24 wide"),
        ({"facts": states_of(3, 2)}, "3 rows.* 4"),
        ({"facts": states_of(1, 2)}, "1 rows.* 4"),
        ({"facts": torch.randn(WIDTH)}, r"\(24,\).*\(batch, tokens, 24\)"),
        ({"facts": torch.ones(2, WIDTH, dtype=torch.long)}, "floats"),
        ({"facts": [0.0]}, "list.*floats"),
        (states_of(2), "Tensor.*dict"),
    ],
)
@pytest.mark.parametrize("generating", [False, True])
def test_states_that_fit_nowhere_are_refused_and_leave_nothing_behind(base, ids, states, message, generating):
    model = by_peft(base).eval()
    model.add_adapter("style", hook())
    model.set_adapter("facts")
    before = logits(model, ids)
    call = model.generate if generating else model
    with pytest.raises(ValueError, match=message):
        call(input_ids=ids, hook_states=states)
    torch.testing.assert_close(logits(model, ids), before, rtol=0, atol=0)


def test_a_part_of_the_model_refuses_states(base, ids):
    """Llama's stack would swallow a word that it does not know."""
    base.add_adapter(hook(), "facts")
    with pytest.raises(ValueError, match="not to a part"):
        base.model(ids, hook_states={"facts": states_of(2)})
    assert base.model(ids, hook_states=None).last_hidden_state.shape == (BATCH, LENGTH, WIDTH)
