"""Records show the weights that the model computed with."""

import pytest
import torch
from peft import get_peft_model
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from omnilatent import LatentHookConfig, LatentNeuralHook, OmniLatentConfig, OmniLatentModel, draw_hooks, record_hooks

BATCH, LENGTH, WIDTH, HEADS = 2, 7, 24, 4
SIZES = dict(vocab_size=99, hidden_size=WIDTH, num_hidden_layers=3, num_attention_heads=HEADS, intermediate_size=40)
OPEN = dict(num_tokens=3, transform_dim=5, init_weights=False)


@pytest.fixture
def base():
    torch.manual_seed(0)
    config = LlamaConfig(
        **SIZES, num_key_value_heads=2, pad_token_id=0, eos_token_id=None, attn_implementation="eager"
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def ids():
    return torch.randint(3, 99, (BATCH, LENGTH), generator=torch.Generator().manual_seed(1))


def hooked(base, **settings):
    return get_peft_model(base, LatentHookConfig(**{**OPEN, **settings}), adapter_name="style").eval()


def weights_by_hand(layer, joined, mask):
    """Attention of a Llama layer on [hooks; content] as its paper writes it, in float64, without rotation."""
    layer = layer.double()
    states = layer.input_layernorm(joined.double())
    split = lambda x: x.unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2)  # noqa: E731
    query, key = split(layer.self_attn.q_proj(states)), split(layer.self_attn.k_proj(states))
    key = key.repeat_interleave(2, dim=1)
    scores = query @ key.transpose(2, 3) / (WIDTH // HEADS) ** 0.5
    return (scores + mask).softmax(-1)


def test_weights_are_those_of_the_formula(base):
    """One content token: at position 0 nothing is rotated."""
    model = hooked(base, layers_to_transform=[1], use_transform=False)
    layer = base.model.layers[1]
    ids = torch.tensor([[5], [8]])
    with torch.no_grad(), record_hooks(model) as records:
        layer.latent_hooks.latent_hook_gate["style"].fill_(-1.5)
        content = base.model.layers[0](
            base.model.embed_tokens(ids),
            position_embeddings=base.model.rotary_emb(torch.zeros(1), torch.zeros(1, 1, dtype=torch.long)),
            attention_mask=None,
        )
        model(ids)
    (record,) = records
    with torch.no_grad():
        joined = torch.cat([layer.latent_hooks.latent_hook_tokens["style"].expand(BATCH, -1, -1), content], dim=1)
        mask = torch.zeros(4, 4, dtype=torch.float64)
        mask[:3, 3] = -torch.inf  # causal: hooks read nothing
        mask[3, :3] = torch.nn.functional.logsigmoid(torch.tensor(-1.5, dtype=torch.float64))
        expected = weights_by_hand(layer, joined, mask)
    torch.testing.assert_close(record.reads.double(), expected[:, :, :3], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(record.readers.double(), expected[:, :, 3:, :3], rtol=1e-5, atol=1e-6)
    assert record.gates["style"] == pytest.approx(torch.sigmoid(torch.tensor(-1.5)).item())


def test_recording_changes_nothing_and_leaves_nothing(base, ids):
    model = hooked(base)
    with torch.no_grad():
        before = model(ids).logits
        with record_hooks(model):
            during = model(ids).logits
    torch.testing.assert_close(during, before, rtol=0, atol=0)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in base.model.layers.modules())


@pytest.mark.parametrize("reads", ["none", "prefix", "prompt"])
def test_there_is_a_record_for_each_hooked_layer(base, ids, reads):
    model = hooked(base, layers_to_transform=[0, 2], reads=reads)
    marks = {"hook_read_mask": torch.arange(LENGTH).expand(BATCH, -1) < 3} if reads == "prompt" else {}
    with torch.no_grad(), record_hooks(model) as records:
        model(ids, use_cache=False, **marks)
    assert [record.layer for record in records] == [f"base_model.model.model.layers.{i}" for i in (0, 2)]
    for record in records:
        assert record.reads.shape == (BATCH, HEADS, 3, 3 + LENGTH)
        assert record.readers.shape == (BATCH, HEADS, LENGTH, 3)
        torch.testing.assert_close(record.reads.sum(-1), torch.ones(BATCH, HEADS, 3))
        read = (record.reads[..., 3:] > 0).all(dim=(0, 1, 2))
        assert read.nonzero().flatten().tolist() == {"none": [], "prefix": [0], "prompt": [0, 1, 2]}[reads]
        heard = (record.readers > 0).all(dim=(0, 1, 3))
        first = {"none": 0, "prefix": 0, "prompt": 2}[reads]
        assert heard.tolist() == [position >= first for position in range(LENGTH)]


def test_several_adapters_stand_in_one_record_by_name(base, ids):
    model = hooked(base, layers_to_transform=[0, 1])
    model.add_adapter("facts", LatentHookConfig(**{**OPEN, "num_tokens": 2}, layers_to_transform=[1, 2]))
    model.base_model.set_adapter(["style", "facts"])
    with torch.no_grad():
        base.model.layers[1].latent_hooks.latent_hook_gate["facts"].fill_(-60.0)
        with record_hooks(model) as records:
            model(ids, hook_states={"facts": torch.randn(4, WIDTH)})
    assert [record.tokens for record in records] == [{"style": 3}, {"facts": 4, "style": 3}, {"facts": 4}]
    record = records[1]
    assert record.rows_of("facts") == slice(0, 4) and record.rows_of("style") == slice(4, 7)
    assert (record.readers[..., record.rows_of("facts")] < 1e-20).all()
    assert (record.readers[..., record.rows_of("style")] > 1e-3).all()
    assert (record.reads[:, :, record.rows_of("facts"), record.rows_of("style")] > 0).all()
    with pytest.raises(ValueError, match="'tone'.*facts, style"):
        record.rows_of("tone")


def test_each_step_of_a_generation_is_recorded(base, ids):
    model = hooked(base, layers_to_transform=[1])
    with record_hooks(model) as records:
        model.generate(input_ids=ids, max_new_tokens=3, do_sample=False)
    assert [record.readers.shape[2] for record in records] == [LENGTH, 1, 1]
    assert [record.reads.shape[3] for record in records] == [3 + LENGTH + step for step in range(3)]


def test_gradients_do_not_flow_through_records(base, ids):
    model = hooked(base)
    with record_hooks(model) as records:
        model(ids, labels=ids).loss.backward()
    assert not any(record.reads.requires_grad or record.readers.requires_grad for record in records)


@pytest.mark.parametrize("family", ["bert", "gpt2", "bart", "omnilatent"])
def test_other_families_are_recorded_too(family, ids):
    torch.manual_seed(0)
    eager = dict(attn_implementation="eager")
    if family == "bert":
        model = BertModel(BertConfig(**SIZES, **eager))
    elif family == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(vocab_size=99, n_embd=WIDTH, n_layer=3, n_head=HEADS, **eager))
    elif family == "bart":
        sizes = dict(encoder_attention_heads=HEADS, decoder_attention_heads=HEADS, d_model=WIDTH, vocab_size=99)
        depth = dict(encoder_layers=3, decoder_layers=3, encoder_ffn_dim=40, decoder_ffn_dim=40)
        model = BartForConditionalGeneration(BartConfig(**sizes, **depth, **eager))
    else:
        model = OmniLatentModel(OmniLatentConfig.tiny(num_hidden_layers=3))
        model.set_attn_implementation("eager")
    layers = [r".*decoder\.layers\.\d"] if family == "bart" else [None]
    model = hooked(model, target_modules=layers[0], reads="none")
    inputs = dict(decoder_input_ids=ids[:, :5]) if family == "bart" else {}
    with torch.no_grad(), record_hooks(model) as records:
        model(input_ids=ids, **inputs)
    length = 5 if family == "bart" else LENGTH
    assert len(records) == 3
    for record in records:
        assert record.reads.shape[2:] == (3, 3 + length) and record.readers.shape[2:] == (length, 3)
        assert (record.reads[..., 3:] == 0).all() and (record.readers > 0).all()


# --- the picture -------------------------------------------------------------------------------------------------


def test_the_picture_shows_the_weights_of_each_layer(base, ids, tmp_path):
    model = hooked(base, layers_to_transform=[0, 2])
    with torch.no_grad(), record_hooks(model) as records:
        model(ids)
    figure = draw_hooks(records, row=1)
    panels = [axis for axis in figure.axes if axis.get_title()]
    assert len(panels) == 4 and "layers.2" in panels[2].get_title()
    shown = torch.from_numpy(panels[3].images[0].get_array().data)
    torch.testing.assert_close(shown, records[1].readers[1].mean(0).T)
    figure.savefig(tmp_path / "hooks.png")
    assert (tmp_path / "hooks.png").stat().st_size > 5000


def test_a_picture_of_nothing_is_refused(base, ids):
    model = hooked(base)
    with torch.no_grad(), record_hooks(model) as records:
        model(ids)
    with pytest.raises(ValueError, match="no records"):
        draw_hooks([])
    with pytest.raises(ValueError, match="2.*has 2"):
        draw_hooks(records, row=2)


# --- bad input ---------------------------------------------------------------------------------------------------


def test_a_kernel_without_weights_is_refused_and_the_model_is_as_before(base, ids):
    base.set_attn_implementation("sdpa")
    model = hooked(base)
    with torch.no_grad():
        before = model(ids).logits
        with pytest.raises(ValueError, match="layers.0 .*'eager'"), record_hooks(model):
            model(ids)
        torch.testing.assert_close(model(ids).logits, before, rtol=0, atol=0)


def test_a_model_without_hooks_has_nothing_to_record(base):
    with pytest.raises(ValueError, match="LlamaForCausalLM has no hooks"), record_hooks(base):
        pass


def test_an_empty_record_is_an_error(base, ids):
    model = hooked(base)
    with pytest.raises(ValueError, match="Nothing was recorded"), record_hooks(model), model.disable_adapter():
        model(ids)


def test_recording_ends_when_the_call_breaks(base):
    model = OmniLatentModel(OmniLatentConfig.tiny()).eval()
    model.set_attn_implementation("eager")
    model.register_hook(LatentNeuralHook("style", dim=model.config.hidden_size))
    with pytest.raises(ValueError, match="10000000"), record_hooks(model):
        model(torch.full((1, 3), 10_000_000))
    assert not any(module._forward_hooks for module in model.layers.modules())
