"""The promises of latent hooks, for every family of models: one table, the same judgement for each row."""

import copy
from dataclasses import dataclass
from functools import cache

import pytest
import torch
import transformers
from peft import PeftModel, get_peft_model
from transformers.integrations import PeftAdapterMixin

from omnilatent import LatentHookConfig, OmniLatentConfig, OmniLatentModel

BATCH, LENGTH, WIDTH = 2, 7, 32
TEXT = dict(vocab_size=99, hidden_size=WIDTH, num_hidden_layers=4, num_attention_heads=4, pad_token_id=0)
LLAMA = dict(**TEXT, intermediate_size=48, num_key_value_heads=2, bos_token_id=1, eos_token_id=None)
BERT = dict(**TEXT, intermediate_size=48, max_position_embeddings=40)
GPT2 = dict(vocab_size=99, n_embd=WIDTH, n_layer=4, n_head=4, n_positions=40, bos_token_id=1, eos_token_id=None)
NEOX = dict(**TEXT, intermediate_size=48, rotary_pct=0.5, bos_token_id=1, eos_token_id=None)
OPT = dict(**TEXT, word_embed_proj_dim=WIDTH, ffn_dim=48, max_position_embeddings=40, eos_token_id=None)
VIT = dict(hidden_size=WIDTH, num_hidden_layers=4, num_attention_heads=4, intermediate_size=48, image_size=12)
TOWER = dict(hidden_size=WIDTH, num_hidden_layers=4, num_attention_heads=4, intermediate_size=48)
CLIP = dict(
    text_config=dict(TOWER, vocab_size=99, max_position_embeddings=40, eos_token_id=98),
    vision_config=dict(TOWER, image_size=12, patch_size=4),
    projection_dim=20,
)
SIGLIP = dict(
    text_config=dict(TOWER, vocab_size=99, max_position_embeddings=LENGTH, projection_size=WIDTH),
    vision_config=dict(TOWER, image_size=12, patch_size=4),
)
WAV2VEC2 = dict(
    **TOWER,
    vocab_size=99,
    conv_dim=(16, 16),
    conv_stride=(4, 4),
    conv_kernel=(5, 5),
    num_conv_pos_embeddings=4,
    num_conv_pos_embedding_groups=2,
    layerdrop=0.0,
    mask_time_prob=0.0,
)
BART = dict(
    vocab_size=99,
    d_model=WIDTH,
    encoder_layers=4,
    decoder_layers=4,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    encoder_ffn_dim=48,
    decoder_ffn_dim=48,
    max_position_embeddings=40,
    pad_token_id=0,
    eos_token_id=None,
    forced_eos_token_id=None,
    decoder_start_token_id=2,
)


@dataclass(frozen=True, eq=False)
class Row:
    name: str  # of the config class in transformers
    model: str  # of the model class
    settings: dict
    kind: str  # what its inputs are, and whether it is causal


ROWS = [
    Row("LlamaConfig", "LlamaForCausalLM", LLAMA, "causal"),
    Row("GPT2Config", "GPT2LMHeadModel", GPT2, "causal"),
    Row("BertConfig", "BertModel", BERT, "encoder"),
    Row("ViTConfig", "ViTModel", dict(VIT, patch_size=4), "image"),
    Row("Qwen2Config", "Qwen2ForCausalLM", LLAMA, "causal"),
    Row("Qwen3Config", "Qwen3ForCausalLM", dict(LLAMA, head_dim=12), "causal"),
    Row("MistralConfig", "MistralForCausalLM", dict(LLAMA, sliding_window=5), "causal"),
    Row("GemmaConfig", "GemmaForCausalLM", dict(LLAMA, head_dim=8), "causal"),
    Row("Gemma3TextConfig", "Gemma3ForCausalLM", dict(LLAMA, head_dim=8, sliding_window=5), "causal"),
    Row("GPTNeoXConfig", "GPTNeoXForCausalLM", NEOX, "causal"),
    Row("OPTConfig", "OPTForCausalLM", OPT, "causal"),
    Row("RobertaConfig", "RobertaModel", dict(BERT, pad_token_id=1), "encoder"),
    Row("CLIPConfig", "CLIPModel", CLIP, "towers"),
    Row("SiglipConfig", "SiglipModel", SIGLIP, "towers"),
    Row("Wav2Vec2Config", "Wav2Vec2Model", WAV2VEC2, "sound"),
    Row("HubertConfig", "HubertModel", WAV2VEC2, "sound"),
    Row("BartConfig", "BartForConditionalGeneration", BART, "seq2seq"),
    Row("OmniLatentConfig", "OmniLatentModel", {}, "omni"),
]
EVERY = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.model)
CAUSAL = pytest.mark.parametrize("row", [row for row in ROWS if row.kind == "causal"], ids=lambda row: row.model)
OPEN = dict(num_tokens=3, transform_dim=5, init_weights=False)


@cache
def built(row):
    """One model of each row, every parameter away from its start."""
    torch.manual_seed(0)
    if row.kind == "omni":
        model = OmniLatentModel(OmniLatentConfig.tiny(num_hidden_layers=4))
    else:
        model = getattr(transformers, row.model)(getattr(transformers, row.name)(**row.settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    # torch's own MultiheadAttention computes frozen weights along another path, and adapters freeze the base
    return model.requires_grad_(False).eval()


def make(row):
    return copy.deepcopy(built(row))


def inputs_of(row):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 90, (BATCH, LENGTH), generator=generator)
    pixels = torch.randn(BATCH, 3, 12, 12, generator=generator)
    mask = torch.ones(BATCH, LENGTH, dtype=torch.long)
    mask[1, :3] = 0
    text = dict(input_ids=ids, attention_mask=mask)
    if row.kind == "omni":
        return make(row).lay_out_triple("image", torch.randn(BATCH, 3, 24, 32, generator=generator), "text", ids)
    return {
        "causal": text,
        "encoder": dict(text, attention_mask=mask.flip(1)),
        "image": dict(pixel_values=pixels),
        "towers": dict(input_ids=ids, pixel_values=pixels),
        "sound": dict(input_values=torch.randn(BATCH, 170, generator=generator)),
        "seq2seq": dict(text, attention_mask=mask.flip(1), decoder_input_ids=ids.flip(1)),
    }[row.kind]


@torch.no_grad()
def outputs_of(model, row):
    """What the model says at real positions, as one row of numbers."""
    output = model(**inputs_of(row))
    if row.kind == "towers":
        return torch.cat([output.text_embeds.flatten(), output.image_embeds.flatten()])
    output = output.logits if row.kind in ("causal", "seq2seq", "omni") else output.last_hidden_state
    if row.kind in ("causal", "encoder"):
        output = output[inputs_of(row)["attention_mask"].bool()]
    return output.flatten()


def hooked(row, model=None, **settings):
    torch.manual_seed(2)
    return get_peft_model(model or make(row), LatentHookConfig(**{**OPEN, **settings})).eval()


@EVERY
def test_hooks_off_is_the_base_model_to_the_bit(row):
    base = make(row)
    before, names = outputs_of(base, row), list(base.state_dict())
    model = hooked(row, base)
    assert not torch.allclose(outputs_of(model, row), before, atol=1e-5)
    with model.disable_adapter():
        torch.testing.assert_close(outputs_of(model, row), before, rtol=0, atol=0)
    base = model.unload()
    torch.testing.assert_close(outputs_of(base, row), before, rtol=0, atol=0)
    assert list(base.state_dict()) == names
    for name, value in base.state_dict().items():
        torch.testing.assert_close(value, built(row).state_dict()[name], rtol=0, atol=0)


@EVERY
def test_shut_gates_leave_the_base_model_as_it_is(row):
    model = hooked(row, gate_bias_init=-20.0, init_weights=True)
    torch.testing.assert_close(outputs_of(model, row), outputs_of(built(row), row), rtol=1e-6, atol=1e-6)


@EVERY
def test_a_saved_hook_says_the_same_when_loaded_by_peft_and_by_transformers(row, tmp_path):
    model = hooked(row)
    expected = outputs_of(model, row)
    model.save_pretrained(tmp_path)
    by_peft = PeftModel.from_pretrained(make(row), tmp_path)
    torch.testing.assert_close(outputs_of(by_peft, row), expected, rtol=0, atol=0)
    by_transformers = make(row)
    PeftAdapterMixin.load_adapter(by_transformers, str(tmp_path))  # Wav2Vec2's own loads languages
    torch.testing.assert_close(outputs_of(by_transformers, row), expected, rtol=0, atol=0)


@EVERY
def test_one_step_trains_every_parameter_of_the_hook_and_no_other(row):
    model = hooked(row).train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=10.0)
    output = model(**inputs_of(row))
    if row.kind == "towers":
        values = torch.cat([output.text_embeds, output.image_embeds])
    else:
        values = output.logits if row.kind in ("causal", "seq2seq", "omni") else output.last_hidden_state
    score = (values * torch.arange(values.shape[-1])).sum()
    score.backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) != ("latent_hook_" in name), name


@CAUSAL
@pytest.mark.parametrize("reads", ["none", "prefix", "prompt"])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_no_position_of_a_causal_model_hears_of_a_later_one(row, reads, count):
    if reads != "none" and "sliding_window" in row.settings:
        pytest.skip("refused, see test_reading_in_a_sliding_window_is_refused")
    model = hooked(row, reads=reads, layers_to_transform=list(range(count)), num_tokens=2)
    ids = inputs_of(row)["input_ids"][:1]
    embeds = model.get_input_embeddings()(ids).detach().requires_grad_()
    prompt = {"hook_read_mask": torch.arange(LENGTH)[None] < 3} if reads == "prompt" else {}
    logits = model(inputs_embeds=embeds, **prompt).logits[0]
    for position in range(LENGTH - 1):
        (gradient,) = torch.autograd.grad(logits[position].square().sum(), embeds, retain_graph=True)
        assert gradient[0, : position + 1].abs().sum() > 0
        assert (gradient[0, position + 1 :] == 0).all(), position


@CAUSAL
@pytest.mark.parametrize("generation", [{}, {"num_beams": 3}, {"cache_implementation": "static"}])
def test_cached_generation_equals_uncached(row, generation):
    model = hooked(row)
    inputs = dict(inputs_of(row), max_new_tokens=5, do_sample=False, return_dict_in_generate=True, output_logits=True)
    beams = generation.get("num_beams", 1)
    cached = model.generate(**inputs, **generation)
    uncached = model.generate(**inputs, num_beams=beams, use_cache=False)
    assert torch.equal(cached.sequences, uncached.sequences)
    torch.testing.assert_close(cached.logits, uncached.logits, rtol=1e-4, atol=1e-4)
    base = built(row).generate(**inputs, num_beams=beams)
    assert not torch.allclose(cached.logits[0], base.logits[0], atol=1e-3)


def test_reading_in_a_sliding_window_is_refused():
    row = next(row for row in ROWS if row.name == "MistralConfig")
    with pytest.raises(ValueError, match="sliding window"):
        hooked(row, reads="prompt")


def test_a_sliding_encoder_reads_nothing_by_default():
    config = transformers.ModernBertConfig(**TOWER, vocab_size=99, pad_token_id=0, global_attn_every_n_layers=2)
    base = transformers.ModernBertModel(config)
    get_peft_model(base, LatentHookConfig())
    assert {setting for layer in base.layers for setting in layer.latent_hooks.hook_reads.values()} == {"none"}


@pytest.mark.parametrize(
    ("config", "model", "settings"),
    [
        ("T5Config", "T5ForConditionalGeneration", dict(d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2)),
        ("DebertaConfig", "DebertaModel", dict(TOWER, vocab_size=99)),
        ("DebertaV2Config", "DebertaV2Model", dict(TOWER, vocab_size=99)),
        ("Wav2Vec2ConformerConfig", "Wav2Vec2ConformerModel", WAV2VEC2),
        ("BloomConfig", "BloomForCausalLM", dict(vocab_size=99, hidden_size=16, n_layer=2, n_head=2)),
    ],
)
def test_models_that_would_be_wrong_with_hooks_are_refused(config, model, settings):
    base = getattr(transformers, model)(getattr(transformers, config)(**settings))
    names = list(base.state_dict())
    with pytest.raises(ValueError, match="bias|convolution"):
        get_peft_model(base, LatentHookConfig())
    assert list(base.state_dict()) == names
