"""What must hold of the any-to-any model whatever its weights."""

import copy
import itertools

import pytest
import torch

from omnilatent import OmniLatentConfig, OmniLatentModel
from omnilatent.configuration.layout import lay_out, token_mask
from omnilatent.configuration.modalities import MODALITIES

PAIRS = list(itertools.product(MODALITIES, MODALITIES))


def randomised(config):
    torch.manual_seed(0)
    model = OmniLatentModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture(scope="module")
def model():
    return randomised(OmniLatentConfig.tiny(num_key_value_heads=2, ctc_loss_weight=0.3))


def data(batch=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {
        "text": torch.randint(3, 259, (batch, 7), generator=generator),
        "audio": torch.randn(batch, 16, 21, generator=generator),
        "image": torch.randn(batch, 3, 24, 40, generator=generator),
        "video": torch.randn(batch, 3, 6, 16, 24, generator=generator),
    }


def unpadded_sizes():
    """A smaller size for the second row of each modality, and the mask that says so."""
    text, audio = torch.ones(2, 7, dtype=torch.bool), torch.ones(2, 21, dtype=torch.bool)
    image, video = torch.ones(2, 24, 40, dtype=torch.bool), torch.ones(2, 6, 16, 24, dtype=torch.bool)
    text[1, 4:] = False
    audio[1, 9:] = False
    image[1, 16:], image[1, :, 24:] = False, False
    video[1, 4:], video[1, :, 8:], video[1, :, :, 16:] = False, False, False
    crop = {"text": (4,), "audio": (slice(None), 9), "image": (slice(None), 16, 24), "video": (slice(None), 4, 8, 16)}
    return {"text": text, "audio": audio, "image": image, "video": video}, crop


def cropped(name, values, crop):
    return values[(slice(1, 2), *(slice(stop) if isinstance(stop, int) else stop for stop in crop[name]))]


@pytest.mark.parametrize("source, target", PAIRS)
def test_padding_and_batching_change_nothing(model, source, target):
    values, (masks, crop) = data(), unpadded_sizes()
    if source == "text" or target == "text":
        values["text"] = values["text"].masked_fill(~masks["text"], 0)
    dirty = {name: tensor.clone() for name, tensor in values.items()}
    for name in ("audio", "image", "video"):  # what stands under padding must not matter
        mask = masks[name].unsqueeze(1).expand_as(dirty[name])
        dirty[name][~mask] = 9.0
    together = model(
        source, dirty[source], target, target=dirty[target], source_mask=masks[source], target_mask=masks[target]
    )
    for row, alone in (
        (0, {name: tensor[:1] for name, tensor in values.items()}),
        (1, {name: cropped(name, tensor, crop) for name, tensor in values.items()}),
    ):
        single = model(source, alone[source], target, target=alone[target])
        got, expected = together["output"][row : row + 1], single["output"]
        region = tuple(slice(size) for size in expected.shape)
        torch.testing.assert_close(got[region], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.source_embeds[row], single.source_embeds[0], rtol=1e-4, atol=1e-5)


def test_the_loss_of_a_padded_batch_is_that_of_its_real_parts(model):
    values, (masks, crop) = data(), unpadded_sizes()
    batch = model("text", values["text"], "image", target=values["image"], target_mask=masks["image"])
    errors, pixels = 0.0, 0
    for row, image in ((0, values["image"][:1]), (1, cropped("image", values["image"], crop))):
        single = model("text", values["text"][row : row + 1], "image", target=image)
        errors, pixels = errors + single.losses["image"] * image.numel(), pixels + image.numel()
    torch.testing.assert_close(batch.losses["image"], errors / pixels, rtol=1e-4, atol=1e-5)


def columns_of(laid_out, segment):
    return (laid_out["token_type_ids"][0] == segment).nonzero().flatten()


@pytest.mark.parametrize("reading, read", [(0, 1), (0, 2), (1, 2), (2, 1), (1, -2), (0, -2), (-2, 0), (-2, 1)])
def test_no_gradient_flows_from_a_target_to_the_source_or_between_targets(model, reading, read):
    values = data()
    laid_out = lay_out(
        model.config, {"audio": values["audio"]}, {"text": values["text"], "image": values["image"]}, contrast=True
    )
    embeds = []
    handle = model.embed_norm.register_forward_hook(lambda module, args, output: embeds.append(output))
    handle.remove()

    def keep(module, args, output):
        output = output.detach().requires_grad_()
        embeds.append(output)
        return output

    handle = model.embed_norm.register_forward_hook(keep)
    states = model(**laid_out).last_hidden_state
    handle.remove()
    (gradient,) = torch.autograd.grad(states[:, columns_of(laid_out, reading)].sum(), embeds[0])
    assert not gradient[:, columns_of(laid_out, read)].any()
    assert gradient[:, columns_of(laid_out, reading)].any()


def test_targets_see_the_source(model):
    values = data()
    for target in MODALITIES:
        first = model("image", values["image"], target, target=values[target])["output"]
        second = model("image", data(seed=2)["image"], target, target=values[target])["output"]
        assert not torch.allclose(first, second)


def test_a_text_target_is_causal(model):
    values = data()
    changed = values["text"].clone()
    changed[:, 4] += 1
    first = model("image", values["image"], "text", target=values["text"]).logits
    second = model("image", values["image"], "text", target=changed).logits
    unchanged = 2 + 4  # marker, BOS and four tokens
    torch.testing.assert_close(first[:, :unchanged], second[:, :unchanged])
    assert not torch.allclose(first[:, unchanged:], second[:, unchanged:])


def test_several_targets_in_one_pass_equal_one_at_a_time(model):
    values = data()
    together = model.forward_multimodal(
        {"audio": values["audio"]}, ["image", "text", "video"], targets=values_for(values)
    )
    for target in ("image", "text", "video"):
        alone = model("audio", values["audio"], target, target=values[target])
        torch.testing.assert_close(together[target], alone["output"], rtol=1e-4, atol=1e-5)
    assert together["output"] is together.image


def values_for(values):
    return {name: values[name] for name in ("image", "text", "video")}


def test_several_sources_are_read_in_one_pass(model):
    values, calls = data(), []
    handle = model.layers[0].register_forward_hook(lambda *args: calls.append(1))
    out = model.forward_multimodal({"text": values["text"], "image": values["image"]}, ["text", "image"])
    handle.remove()
    assert len(calls) == 1
    assert out["text"].shape == (2, 7 + 15, 320) and out["image"].shape == (2, 3, 32, 32)
    other = model.forward_multimodal({"text": values["text"], "image": data(seed=5)["image"]}, ["image"])
    assert not torch.allclose(out["image"], other["image"])


def test_the_first_output_is_the_first_target_named(model):
    values = data()
    out = model.forward_multimodal({"image": values["image"]}, ["video", "text"])
    assert out["output"] is out["video"]


def test_without_tokens_a_text_target_is_read_out_at_the_source_positions(model):
    values = data()
    assert model("image", values["image"], "text")["output"].shape == (2, 15, 320)
    assert model("text", values["text"], "text")["output"].shape == (2, 7, 320)


def test_the_default_model_has_the_shapes_of_the_specification():
    torch.manual_seed(0)
    model = OmniLatentModel(OmniLatentConfig(num_hidden_layers=1))
    tokens, image = torch.randint(1, 32000, (1, 64)), torch.randn(1, 3, 224, 224)
    assert model("image", image, "text")["output"].shape == (1, 196, 32000)
    assert model("text", tokens, "image")["output"].shape == (1, 3, 224, 224)
    assert model("text", tokens, "video")["output"].shape == (1, 3, 16, 112, 112)
    assert model("text", tokens, "audio")["output"].shape == (1, 128, 200)


@pytest.mark.parametrize("source, target", PAIRS)
def test_every_pair_trains_what_it_uses(model, source, target):
    model = copy.deepcopy(model).train()
    values = data()
    model(source, values[source], target, target=values[target]).loss.backward()
    missing = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    bad = {
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not (torch.isfinite(parameter.grad).all() and parameter.grad.any())
    }
    used = {"layers", "norm", "embed_norm", *(f"encoders.{source}" for _ in [0] if source != "text")}
    if target != "text":
        used.add(f"decoders.{target}")
    assert not {name for name in missing | bad if any(name.startswith(f"{part}.") for part in used)}


def test_one_step_of_all_targets_gives_every_parameter_a_gradient(model):
    model = copy.deepcopy(model).train()
    values = data()
    for source in MODALITIES:
        model.forward_multimodal({source: values[source]}, list(MODALITIES), targets=values).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all() and parameter.grad.any(), name


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_gives_equal_gradients(model, use_reentrant):
    values, gradients = data(), []
    for checkpointing in (False, True):
        copied = copy.deepcopy(model).train()
        if checkpointing:
            copied.activation_checkpointing_enable({"use_reentrant": use_reentrant})
            copied.enable_input_require_grads()
        copied("video", values["video"], "text", target=values["text"]).loss.backward()
        gradients.append({name: p.grad for name, p in copied.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name in gradients[0]:
        torch.testing.assert_close(gradients[0][name], gradients[1][name], rtol=1e-5, atol=1e-7)


def test_placeholders_without_their_tensor_are_said(model, caplog):
    import transformers

    transformers.utils.logging.enable_propagation()
    try:
        model(**{**image_to_text(model, data()), "pixel_values": None})
    finally:
        transformers.utils.logging.disable_propagation()
    assert "placeholders of image, but no `pixel_values`" in caplog.text


@pytest.mark.parametrize("name", ["audio", "image", "video"])
@pytest.mark.parametrize("side", ["source", "target"])
def test_a_row_that_lacks_a_modality_stands_beside_one_that_has_it(model, name, side):
    values, (masks, _) = data(), unpadded_sizes()
    mask = torch.ones_like(masks[name])
    mask[1] = False
    values[name][1] = float("nan")
    if side == "source":
        out = model.forward_multimodal(
            {"text": values["text"], name: values[name]},
            ["text"],
            targets=values_of(values, "text"),
            input_masks={name: mask},
        )
        alone = model("text", values["text"][1:], "text", target=values["text"][1:])
        torch.testing.assert_close(out.logits[1:], alone.logits, rtol=1e-4, atol=1e-4)
    else:
        out = model("text", values["text"], name, target=values[name], target_mask=mask)
        alone = model("text", values["text"][:1], name, target=values[name][:1])
        torch.testing.assert_close(out.losses[name], alone.losses[name], rtol=1e-4, atol=1e-5)
    assert torch.isfinite(out.losses[name if side == "target" else "text"])


def values_of(values, *names):
    return {name: values[name] for name in names}


def test_tokens_of_the_sources_are_no_labels(model):
    """They see each other in both directions: predicting them would be copying."""
    text = data()["text"]
    sources = torch.zeros_like(text)
    assert model(input_ids=text, token_type_ids=sources, labels=text).losses["text"] == 0
    assert model(input_ids=text, labels=text).losses["text"] > 1


def test_saved_and_reloaded_it_is_the_same_to_the_bit(model, tmp_path):
    model.save_pretrained(tmp_path)
    reloaded = OmniLatentModel.from_pretrained(tmp_path).eval()
    for (name, saved), (other, loaded) in zip(model.state_dict().items(), reloaded.state_dict().items(), strict=True):
        assert name == other and torch.equal(saved, loaded)
    with torch.no_grad():
        for parameter in reloaded.parameters():  # the file's memory is aligned otherwise, and matmul minds
            parameter.data = parameter.data.clone()
    values = data()
    for source, target in PAIRS:
        assert torch.equal(
            model(source, values[source], target)["output"], reloaded(source, values[source], target)["output"]
        )


def test_a_truncated_file_of_weights_is_refused_by_name(model, tmp_path):
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="model.safetensors.*damaged"):
        OmniLatentModel.from_pretrained(tmp_path)


def test_eager_equals_sdpa(model):
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    values = data()
    for source, target in PAIRS[::3]:
        torch.testing.assert_close(
            eager(source, values[source], target)["output"],
            model(source, values[source], target)["output"],
            rtol=1e-4,
            atol=1e-5,
        )


def test_interpolation_starts_slots_from_the_source():
    values = data()
    model = randomised(OmniLatentConfig.tiny(sequence_adaptation="interpolate"))
    queries = OmniLatentModel(OmniLatentConfig.tiny())
    queries.load_state_dict(model.state_dict())
    interpolated, plain = (m.eval()("audio", values["audio"], "image")["output"] for m in (model, queries))
    assert not torch.allclose(interpolated, plain)
    masks, _ = unpadded_sizes()
    padded = model("audio", values["audio"], "image", source_mask=masks["audio"])["output"][1:]
    torch.testing.assert_close(
        padded, model("audio", values["audio"][1:, :, :9], "image")["output"], rtol=1e-4, atol=1e-5
    )


def test_video_and_sound_share_one_clock():
    from omnilatent.modeling_omni.omnilatent.coordinates import token_coordinates

    config = OmniLatentConfig()
    audio, video = token_coordinates(config, "audio", (200,))[0], token_coordinates(config, "video", (16, 112, 112))[0]
    # two seconds each: 50 sound tokens, 4 tubes of half a second whose centres are 0.25, 0.75, 1.25, 1.75 s
    assert audio[:, 0].tolist() == [i + 0.5 for i in range(50)]
    assert video[:, 0].unique().tolist() == [6.25, 18.75, 31.25, 43.75]
    image = token_coordinates(config, "image", (224, 224))[0]
    assert image[:, 1].unique().mean() == pytest.approx(video[:, 1].unique().mean().item())


def test_a_token_is_real_if_anything_in_it_is():
    config = OmniLatentConfig.tiny()
    mask = torch.zeros(1, 10, dtype=torch.bool)
    mask[:, :5] = True
    assert token_mask(config, "audio", mask).tolist() == [[True, True, False]]


def test_contrast_is_left_out_where_source_and_target_are_one_modality(model):
    values = data()
    assert "contrastive" not in model.reconstruct("image", values["image"]).losses
    assert "contrastive" in model("image", values["image"], "audio", target=values["audio"]).losses


def test_embeddings_are_those_of_the_forward_pass_and_have_unit_norm(model):
    values = data()
    out = model("image", values["image"], "video", target=values["video"])
    torch.testing.assert_close(model.embed("image", values["image"]), out.source_embeds)
    torch.testing.assert_close(model.embed("video", values["video"]), out.target_embeds["video"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out.source_embeds.norm(dim=-1), torch.ones(2))


def test_the_vocabulary_grows_without_moving_the_placeholders(model):
    model = copy.deepcopy(model)
    values = data()
    before = model("image", values["image"], "text")["output"]
    model.resize_token_embeddings(330)
    after = model("image", values["image"], "text")["output"]
    assert after.shape[-1] == 330
    torch.testing.assert_close(after[..., :320], before)


def test_compiled_whole_it_equals_eager():
    model, values = randomised(OmniLatentConfig.tiny()), data()
    laid_out = lay_out(
        model.config, {"image": values["image"]}, {"text": values["text"], "audio": values["audio"]}, contrast=True
    )
    expected = model(**laid_out)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(**laid_out)
    torch.testing.assert_close(compiled.loss, expected.loss, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(compiled.logits, expected.logits, rtol=1e-4, atol=1e-4)


def test_the_triple_goes_through_compile_and_lora(model):
    from peft import LoraConfig, get_peft_model

    values = data()
    expected = model("image", values["image"], "audio")["output"]
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled("image", values["image"], "audio")["output"], expected)
    lora = get_peft_model(copy.deepcopy(model), LoraConfig(target_modules=["q_proj", "v_proj"], r=2))
    torch.testing.assert_close(lora("image", values["image"], "audio")["output"], expected)


def image_to_text(model, values):
    return lay_out(model.config, {"image": values["image"]}, {"text": values["text"]})


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda m, d: m("smell", d["image"], "text"), "'smell'.*text, audio, image, video"),
        (lambda m, d: m("image", d["image"], "smell"), "'smell'.*text, audio, image, video"),
        (lambda m, d: m("image", d["image"][0], "text"), r"\(batch, 3, height, width\), got \(3, 24, 40\)"),
        (lambda m, d: m("image", d["image"][:, :, :23], "text"), "23 pixels high.*8"),
        (lambda m, d: m("video", d["video"].transpose(1, 2), "text"), r"\(batch, 3, frames, height, width\)"),
        (lambda m, d: m("video", d["video"][:, :, :5], "text"), "5 frames.*2"),
        (lambda m, d: m("audio", d["audio"][:, :9], "text"), r"\(batch, 16, frames\), got \(2, 9, 21\)"),
        (lambda m, d: m("audio", torch.randn(1, 16, 401), "text"), "401 mel frames.*400"),
        (lambda m, d: m("text", d["text"].float(), "image"), "token ids, got torch.float32"),
        (lambda m, d: m("text", d["text"] + 100, "image"), r"outside 0\.\.319"),
        (lambda m, d: m("text", torch.ones(1, 513, dtype=torch.long), "image"), "513 tokens.*512"),
        (lambda m, d: m("image", None, "text"), "got NoneType"),
        (lambda m, d: m("image", d["image"], "audio", target=d["audio"][:1]), r"Batch sizes must agree.*\[1, 2\]"),
        (lambda m, d: m("image", d["image"][:0], "audio"), "not be 0"),
        (lambda m, d: m("image", d["image"], "image", source_mask=torch.ones(2, 3)), r"\(2, 24, 40\), got \(2, 3\)"),
        (lambda m, d: m.forward_multimodal({}, ["text"]), "No source"),
        (lambda m, d: m.forward_multimodal({"image": d["image"]}, []), "`target_modalities` is empty"),
        (lambda m, d: m.forward_multimodal({"image": d["image"]}, ["text"], targets={"audio": d["audio"]}), "'audio'"),
        (lambda m, d: m(), "input_ids"),
        (lambda m, d: m(input_ids=d["text"], pixel_values=d["image"]), r"\[0, 0\] placeholders of image.*\[15, 15\]"),
        (lambda m, d: m(**{**image_to_text(m, d), "pixel_values": d["image"][:1]}), "1 rows, the sequence has 2"),
        (lambda m, d: m(**{**image_to_text(m, d), "pixel_values": d["image"].byte()}), "floating-point.*uint8"),
        (lambda m, d: m(**{**image_to_text(m, d), "pixel_values": d["image"][:, :2]}), r"\(2, 2, 24, 40\)"),
        (lambda m, d: m(**{**image_to_text(m, d), "labels": d["text"]}), r"`labels` must have the shape \(2, 25\)"),
        (lambda m, d: m(**image_to_text(m, d), image_labels=d["image"]), r"`image_labels` is given.*\['text'\]"),
        (
            lambda m, d: m(input_ids=d["text"], attention_mask=torch.ones(2, 3)),
            r"`attention_mask`.*\(2, 7\).*\(2, 3\)",
        ),
        (lambda m, d: m(input_ids=d["text"] + 400), "holds .*0..319 and special tokens 1344..1353"),
        (lambda m, d: m(input_ids=torch.full((1, 600), 5)), "600 tokens.*512"),
        (lambda m, d: m.forward_multimodal({"image": d["image"]}, ["audio", "audio"]), "twice"),
        (lambda m, d: m.resize_token_embeddings(2000), "2000 would run into.*1344"),
        (lambda m, d: m.generate(d["text"], max_new_tokens=600), "600.*512"),
    ],
)
def test_bad_input_is_refused_with_both_sides_named(model, call, message):
    with pytest.raises(ValueError, match=message):
        call(model, data())
