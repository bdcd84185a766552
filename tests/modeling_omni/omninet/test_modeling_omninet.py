"""What must hold of the aligner as a transformers model."""

import math
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel

from omnilatent import OmniNetConfig, OmniNetModel

sys.path.append(str(Path(__file__).parents[2]))
import reference  # noqa: E402

BATCH = 5
SIZES = {"vision": (7, 20), "audio": (11, 12), "text": (4, 28)}  # tokens and width in the tiny model


def randomised(**settings):
    torch.manual_seed(0)
    model = OmniNetModel(OmniNetConfig.tiny(**settings)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        model.logit_scale.fill_(1.5)
    return model


def data(*names, batch=BATCH, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{name}_features": torch.randn(batch, *SIZES[name], generator=generator, dtype=torch.float64)
        for name in names or SIZES
    }


def times(name, batch=BATCH):
    return torch.linspace(0, 3, SIZES[name][0], dtype=torch.float64).expand(batch, -1)


def test_auto_classes_know_it():
    assert isinstance(AutoConfig.for_model("omninet"), OmniNetConfig)
    assert isinstance(AutoModel.from_config(OmniNetConfig.tiny()), OmniNetModel)


@pytest.mark.parametrize("loss", ["info_nce", "sigmoid"])
def test_save_and_reload_is_exact(tmp_path, loss):
    model = randomised(loss=loss, time_embedding="constrained_rotary").float()
    inputs = {name: values.float() for name, values in data().items()}
    inputs |= {f"{name}_timestamps": times(name).float() for name in ("vision", "audio")}
    model.save_pretrained(tmp_path)
    again = OmniNetModel.from_pretrained(tmp_path).eval()
    assert torch.equal(model(**inputs).loss, again(**inputs).loss)
    assert again.config.time_embedding == "constrained_rotary"


@torch.no_grad()
def cosine_and_loss(model, inputs):
    output = model(**inputs)
    cosines = [model.similarity(unit, unit) for unit in (output.vision_embeds, output.audio_embeds)]
    count = len(output.vision_embeds)
    means = [((c.sum() - c.trace()) / (count * (count - 1))).item() for c in cosines]
    return means, output.loss.item() / math.log(count)


@pytest.mark.parametrize("offset", [0.0, 5.0])
def test_at_the_start_the_loss_is_near_ln_b_and_embeddings_differ(offset):
    torch.manual_seed(0)
    model = OmniNetModel(OmniNetConfig(num_hidden_layers=2, text_hidden_size=None))
    inputs = {
        "vision_features": torch.randn(512, 3, 768) + offset,
        "audio_features": torch.randn(512, 2, 768) + offset,
    }
    means, loss = cosine_and_loss(model, inputs)
    assert max(map(abs, means)) < 0.05
    assert loss == pytest.approx(1, abs=0.05)


def test_centering_undoes_the_collapse_that_a_common_mean_makes():
    torch.manual_seed(0)
    model = OmniNetModel(OmniNetConfig(num_hidden_layers=2, text_hidden_size=None))
    inputs = {
        "vision_features": torch.randn(512, 3, 768) + 3 * torch.randn(768),
        "audio_features": torch.randn(512, 2, 768) + 3 * torch.randn(768),
    }
    means, _ = cosine_and_loss(model, inputs)
    assert min(means) > 0.9
    model.center_on(**inputs)
    means, loss = cosine_and_loss(model, inputs)
    assert max(map(abs, means)) < 0.05
    assert loss == pytest.approx(1, abs=0.05)


def test_centering_counts_real_tokens_only():
    model, inputs = randomised(), data("vision")
    mask = torch.arange(7).expand(BATCH, -1) < 4
    inputs["vision_features"][~mask] = 1e6
    model.center_on(**inputs, vision_attention_mask=mask)
    tokens = model.streams["vision"].embed_tokens(inputs["vision_features"], mask)
    torch.testing.assert_close(tokens[mask].mean(0), torch.zeros(32, dtype=torch.float64), rtol=0, atol=1e-9)


def test_embeddings_have_norm_one_and_logits_are_their_scaled_products():
    model = randomised()
    output = model(**data())
    for name in SIZES:
        norms = output[f"{name}_embeds"].norm(dim=-1)
        torch.testing.assert_close(norms, torch.ones(BATCH, dtype=torch.float64))
    logits = math.exp(1.5) * output.audio_embeds @ output.text_embeds.T
    torch.testing.assert_close(output.logits_per_audio_text, logits, rtol=1e-6, atol=1e-6)


def test_the_loss_is_the_mean_of_the_pairs_references():
    model = randomised()
    output = model(**data())
    pairs = [("vision", "audio"), ("vision", "text"), ("audio", "text")]
    losses = [
        reference.info_nce(output[f"{a}_embeds"].detach(), output[f"{b}_embeds"].detach(), math.exp(1.5))
        for a, b in pairs
    ]
    assert output.loss.item() == pytest.approx(sum(losses) / 3, rel=1e-6)


def test_the_sigmoid_loss_asks_of_each_pair_whether_it_belongs_together():
    model = randomised(loss="sigmoid", logit_bias_init_value=-2.0)
    output = model(**data("vision", "audio"))
    logits, total = output.logits_per_vision_audio, 0.0
    for i in range(BATCH):
        for j in range(BATCH):
            sign = 1 if i == j else -1
            total += math.log(1 + math.exp(-sign * logits[i, j].item()))
    assert output.loss.item() == pytest.approx(total / BATCH, rel=1e-6)
    cosines = output.vision_embeds @ output.audio_embeds.T
    torch.testing.assert_close(logits, math.exp(1.5) * cosines + model.logit_bias, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("loss", ["info_nce", "sigmoid"])
def test_the_tiled_loss_equals_the_plain_one_and_makes_no_logits(loss):
    plain, tiled = randomised(loss=loss), randomised(loss=loss, tiled_loss=True)
    one, other = plain(**data()), tiled(**data())
    torch.testing.assert_close(one.loss, other.loss, rtol=1e-5, atol=1e-6)
    assert other.logits_per_vision_audio is None and one.logits_per_vision_audio is not None


def test_equal_sample_ids_are_positives_or_ignored():
    ids = torch.tensor([3, 8, 3, 1, 2])
    losses = {}
    for duplicates in ("positive", "ignore"):
        model = randomised(duplicates=duplicates)
        losses[duplicates] = model(**data("vision", "audio"), sample_ids=ids).loss.item()
        losses["unaware"] = model(**data("vision", "audio")).loss.item()
    assert len({round(value, 6) for value in losses.values()}) == 3


def test_the_scale_starts_at_one_over_the_temperature_and_stops_at_100():
    model = OmniNetModel(OmniNetConfig.tiny())
    assert model.scale.item() == pytest.approx(1 / 0.07, rel=1e-4)
    assert OmniNetModel(OmniNetConfig.tiny(loss="sigmoid")).scale.item() == pytest.approx(10, rel=1e-4)
    with torch.no_grad():
        model.logit_scale.fill_(20.0)
    assert model.scale.item() == pytest.approx(100, rel=1e-4)


def test_a_missing_modality_drops_its_pairs_only():
    model, inputs = randomised(), data()
    without = model(vision_features=inputs["vision_features"], text_features=inputs["text_features"])
    assert without.audio_embeds is without.logits_per_vision_audio is without.logits_per_audio_text is None
    whole = model(**inputs)
    assert torch.equal(without.logits_per_vision_text, whole.logits_per_vision_text)
    assert without.loss.item() == pytest.approx(
        model.contrast(whole.vision_embeds, whole.text_embeds).item(), rel=1e-9
    )
    alone = model(text_features=inputs["text_features"])
    assert alone.loss is None and torch.equal(alone.text_embeds, whole.text_embeds)
    assert model(**inputs, return_loss=False).loss is None


@pytest.mark.parametrize("how", ["present", "mask"])
def test_a_sample_without_a_modality_is_in_none_of_its_pairs(how):
    model, inputs = randomised(), data("vision", "audio")
    for values in inputs.values():
        values.requires_grad_()
    there = torch.tensor([True, True, False, True, False])
    missing = {"audio_present": there} if how == "present" else {"audio_attention_mask": there[:, None].expand(-1, 11)}
    output = model(**inputs, **missing)
    assert output.audio_embeds[~there].abs().max() == 0
    assert output.vision_embeds[~there].abs().max() > 0
    others = model(**{name: values[there] for name, values in inputs.items()})
    torch.testing.assert_close(output.loss, others.loss)
    output.loss.backward()
    gradients = [parameter.grad for name, parameter in model.named_parameters() if "streams.text" not in name]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert inputs["vision_features"].grad[~there].abs().max() == 0


def test_a_pair_that_no_sample_has_does_not_dilute_the_others():
    model, inputs = randomised(), data()
    nobody = torch.zeros(BATCH, dtype=torch.bool)
    output = model(**inputs, text_present=nobody)
    pair = model(vision_features=inputs["vision_features"], audio_features=inputs["audio_features"])
    torch.testing.assert_close(output.loss, pair.loss)
    nothing = model(**data("vision", "text"), text_present=nobody)
    assert nothing.loss.item() == 0


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("time_embedding", ["none", "constrained_rotary"])
def test_padding_changes_nothing(implementation, time_embedding):
    model, inputs = randomised(time_embedding=time_embedding), data("vision", "audio")
    model.set_attn_implementation(implementation)
    stamps = {f"{name}_timestamps": times(name) for name in ("vision", "audio")}
    plain = model(**inputs, **stamps)
    junk = torch.full((BATCH, 6, 12), torch.nan, dtype=torch.float64)
    padded = torch.cat([inputs["audio_features"], junk], dim=1)
    padded_stamps = torch.cat([stamps["audio_timestamps"], junk[..., 0]], dim=1)
    output = model(
        vision_features=inputs["vision_features"],
        audio_features=padded,
        audio_attention_mask=(torch.arange(17) < 11).long().expand(BATCH, -1),
        vision_timestamps=stamps["vision_timestamps"],
        audio_timestamps=padded_stamps,
    )
    torch.testing.assert_close(output.audio_embeds, plain.audio_embeds, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(output.loss, plain.loss, rtol=1e-6, atol=1e-6)


def test_a_batch_equals_its_samples_one_by_one():
    model, inputs = randomised(), data()
    together = model(**inputs)
    for row in range(BATCH):
        alone = model(**{name: values[row : row + 1] for name, values in inputs.items()})
        for name in SIZES:
            torch.testing.assert_close(alone[f"{name}_embeds"][0], together[f"{name}_embeds"][row])


def test_embedding_one_modality_equals_forward():
    model, inputs = randomised(), data()
    output = model(**inputs)
    for name in SIZES:
        embeds = getattr(model, f"get_{name}_embeds")(inputs[f"{name}_features"])
        assert torch.equal(embeds, output[f"{name}_embeds"])


def test_a_token_embedding_is_that_of_the_sequence_that_holds_only_this_token():
    model, features = randomised(), data("audio")["audio_features"]
    tokens = model.get_token_embeds("audio", features)
    assert tokens.shape == (BATCH, 11, 24)
    torch.testing.assert_close(tokens[3, 6], model.get_audio_embeds(features[3:4, 6:7])[0])
    matrix = model.get_similarity_matrix(tokens, tokens[:, :2])
    assert matrix.shape == (BATCH, 11, 2)
    torch.testing.assert_close(matrix[3, 6, 1], tokens[3, 6] @ tokens[3, 1])


def test_queries_of_a_stream_read_different_things():
    torch.manual_seed(0)
    model = OmniNetModel(OmniNetConfig(num_hidden_layers=0, text_hidden_size=None))
    read = model(vision_features=torch.randn(3, 50, 768)).vision_model_output.last_hidden_state
    cosine = torch.cosine_similarity(read[:, 0], read[:, 1], dim=-1)
    assert cosine.abs().max() < 0.8


def test_hidden_states_are_those_of_each_stream():
    model = randomised()
    output = model(**data("vision", "audio"), output_hidden_states=True)
    for stream in (output.vision_model_output, output.audio_model_output):
        assert len(stream.hidden_states) == 3  # before the two layers, between them and at the end
        assert torch.equal(stream.hidden_states[-1], stream.last_hidden_state)


def test_checkpointing_changes_no_gradient():
    model, inputs = randomised().train(), data()
    gradients = []
    for again in (False, True):
        if again:
            model.activation_checkpointing_enable()
            assert model.streams["vision"].layers[0].gradient_checkpointing
        model.zero_grad()
        model(**inputs).loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for plain, recomputed in zip(*gradients):
        torch.testing.assert_close(plain, recomputed, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("settings", [{}, {"time_embedding": "constrained_rotary", "loss": "sigmoid"}])
def test_compiles_without_graph_breaks(settings):
    model, inputs = randomised(**settings), data("vision", "audio")
    inputs |= {f"{name}_timestamps": times(name) for name in ("vision", "audio")}
    masks = {
        "audio_attention_mask": (torch.arange(11).expand(BATCH, -1) < 3 + torch.arange(BATCH)[:, None]).long(),
        "vision_present": torch.tensor([True, True, True, False, True]),
    }
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(**inputs, **masks).loss, model(**inputs, **masks).loss)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_a_float32_loss_near_float32s(dtype):
    model, inputs = randomised().float(), {name: values.float() for name, values in data().items()}
    expected = model(**inputs).loss.item()
    loss = model.to(dtype)(**{name: values.to(dtype) for name, values in inputs.items()}).loss
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=0.05)


def test_autocast_leaves_logits_in_float32():
    model, inputs = randomised().float(), {name: values.float() for name, values in data("vision", "audio").items()}
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**inputs)
    assert output.logits_per_vision_audio.dtype == torch.float32
    expected = model.scale * output.vision_embeds @ output.audio_embeds.T
    torch.testing.assert_close(output.logits_per_vision_audio, expected)


def test_time_embedding_makes_the_order_of_tokens_count():
    features = data("vision")["vision_features"]
    plain, timed = randomised(), randomised(time_embedding="constrained_rotary")
    backwards = times("vision").flip(1)
    assert torch.equal(
        plain.get_vision_embeds(features, timestamps=times("vision")),
        plain.get_vision_embeds(features, timestamps=backwards),
    )
    there = timed.get_vision_embeds(features, timestamps=times("vision"))
    assert not torch.allclose(there, timed.get_vision_embeds(features, timestamps=backwards), atol=1e-3)


def test_the_omni_sequence_holds_each_token_in_its_group():
    model, inputs = randomised(temporal_group_duration=0.5), data("vision", "audio")
    mask = torch.arange(11).expand(BATCH, -1) < 8
    features = {name: inputs[f"{name}_features"] for name in ("vision", "audio")}
    stamps = {name: times(name) for name in features}
    grouped = model.get_omni_sequence(features, stamps, {"audio": mask})
    assert grouped.tokens.shape == (BATCH, 18, 32)
    assert grouped.mask.sum(1).tolist() == [15] * BATCH
    audio = model.streams["audio"].embed_tokens(features["audio"], mask)
    torch.testing.assert_close(grouped.tokens[2][(grouped.streams[2] == 1) & grouped.mask[2]], audio[2, :8])
    assert (grouped.groups[:, :15].diff(dim=1) >= 0).all()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "Give the features of one modality at least"),
        ({"vision_features": (5, 7, 20), "audio_features": (4, 11, 12)}, "batch sizes are"),
        ({"vision_features": (5, 7, 21)}, r"`vision_features` must have the shape \(batch, tokens, 20\)"),
        ({"audio_features": (5, 0, 12)}, "`audio_features` has no tokens"),
        (
            {"vision_features": (5, 7, 20), "vision_attention_mask": (5, 6)},
            r"must have the shape \(5, 7\), got \(5, 6\)",
        ),
        ({"vision_features": (5, 7, 20), "vision_present": (5, 7)}, r"`vision_present` must have the shape \(5,\)"),
        ({"vision_features": (5, 7, 20), "vision_timestamps": (5, 6)}, "Timestamps of shape"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs, message):
    model = OmniNetModel(OmniNetConfig.tiny())
    with pytest.raises(ValueError, match=message):
        model(**{name: torch.ones(shape) for name, shape in inputs.items()})


def test_nan_unknown_streams_and_missing_timestamps_are_refused():
    model = OmniNetModel(OmniNetConfig.tiny(text_hidden_size=None, time_embedding="constrained_rotary"))
    wrong = torch.randn(5, 7, 20)
    with pytest.raises(ValueError, match="needs `vision_timestamps`"):
        model(vision_features=wrong)
    wrong[1, 2, 3] = torch.nan
    with pytest.raises(ValueError, match="`vision_features` holds NaN"):
        model(vision_features=wrong, vision_timestamps=torch.zeros(5, 7))
    with pytest.raises(ValueError, match="no stream 'text': there are vision, audio"):
        model(text_features=torch.randn(5, 4, 28))
    with pytest.raises(ValueError, match="`second_embeds` holds NaN"):
        model.contrast(torch.randn(5, 24), torch.full((5, 24), torch.nan))
