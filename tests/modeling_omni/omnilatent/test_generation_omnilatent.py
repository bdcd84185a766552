"""Generation is transformers' own; what it must not change is what an uncached, unpadded model says."""

import pytest
import torch

from omnilatent import OmniLatentConfig, OmniLatentModel
from omnilatent.configuration.layout import lay_out


@pytest.fixture(scope="module")
def model():
    return randomised(OmniLatentConfig.tiny(num_key_value_heads=2))


def randomised(config):
    """Every parameter away from its start, so that no zero or one hides a mistake."""
    torch.manual_seed(0)
    model = OmniLatentModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def sources(batch=2):
    generator = torch.Generator().manual_seed(1)
    return {
        "text": torch.randint(3, 259, (batch, 5), generator=generator),
        "audio": torch.randn(batch, 16, 23, generator=generator),
        "image": torch.randn(batch, 3, 24, 32, generator=generator),
        "video": torch.randn(batch, 3, 4, 16, 16, generator=generator),
    }


def prompt(model, *names, batch=2, masks=None):
    given = sources(batch)
    laid_out = lay_out(model.config, {name: given[name] for name in names}, {"text": None}, masks)
    for key in ("logits_to_keep", "target_sizes", "target_starts", "twins"):  # the naive loop has its own
        laid_out.pop(key)
    return laid_out


def greedy_without_cache(model, inputs, steps):
    """The naive loop: the whole sequence anew for every token."""
    inputs = dict(inputs)
    start = inputs["input_ids"].shape[1]
    logits = []
    for _ in range(steps):
        last = model(**inputs).logits[:, -1]
        logits.append(last)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], last.argmax(-1, keepdim=True)], dim=1)
        for key in ("attention_mask", "token_type_ids"):
            inputs[key] = torch.cat([inputs[key], torch.ones_like(inputs[key][:, :1])], dim=1)
    return inputs["input_ids"][:, start:], torch.stack(logits, dim=1)


@pytest.mark.parametrize("names", [("text",), ("audio",), ("image",), ("video",), ("text", "audio", "image", "video")])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_each_cached_step_has_the_logits_of_the_uncached_model(model, names, cache):
    inputs = prompt(model, *names)
    expected, expected_logits = greedy_without_cache(model, inputs, steps=6)
    out = model.generate(
        **inputs,
        max_new_tokens=6,
        min_new_tokens=6,
        do_sample=False,
        eos_token_id=None,
        cache_implementation=None if cache == "dynamic" else "static",
        return_dict_in_generate=True,
        output_logits=True,
        disable_compile=True,
    )
    torch.testing.assert_close(torch.stack(out.logits, dim=1), expected_logits, rtol=0, atol=1e-4)
    assert torch.equal(out.sequences[:, -6:], expected)


def test_left_padding_changes_nothing(model):
    inputs = prompt(model, "image", "text", batch=1)
    pad = 3
    padded = {
        **inputs,
        "input_ids": torch.cat([torch.zeros(1, pad, dtype=torch.long), inputs["input_ids"]], dim=1),
        "attention_mask": torch.cat([torch.zeros(1, pad, dtype=torch.long), inputs["attention_mask"]], dim=1),
        "token_type_ids": torch.cat([torch.zeros(1, pad, dtype=torch.long), inputs["token_type_ids"]], dim=1),
    }
    settings = dict(max_new_tokens=5, do_sample=False, output_logits=True, return_dict_in_generate=True)
    plain, left = model.generate(**inputs, **settings), model.generate(**padded, **settings)
    torch.testing.assert_close(torch.stack(left.logits), torch.stack(plain.logits), rtol=0, atol=1e-4)


def test_a_batch_of_prompts_of_unequal_length_equals_one_by_one(model):
    mask = torch.ones(2, 23, dtype=torch.bool)
    mask[1, 9:] = False
    both = prompt(model, "audio", masks={"audio": mask})
    settings = dict(max_new_tokens=5, do_sample=False)
    together = model.generate(**both, **settings)[:, -5:]
    audio = sources()["audio"]
    for row, length in enumerate((23, 9)):
        alone = lay_out(model.config, {"audio": audio[row : row + 1, :, :length]}, {"text": None})
        assert torch.equal(model.generate(**alone, **settings)[0, -5:], together[row])


def test_beam_search_with_cache_equals_beam_search_without(model):
    inputs = prompt(model, "video", "text")
    settings = dict(max_new_tokens=5, num_beams=3, do_sample=False)
    assert torch.equal(model.generate(**inputs, **settings), model.generate(**inputs, **settings, use_cache=False))


def test_sampling_is_decided_by_the_seed(model):
    inputs = prompt(model, "image")
    settings = dict(max_new_tokens=8, do_sample=True, top_k=20)
    torch.manual_seed(3)
    first = model.generate(**inputs, **settings)
    torch.manual_seed(3)
    assert torch.equal(first, model.generate(**inputs, **settings))
    assert not torch.equal(first, model.generate(**inputs, **settings))


def test_eos_ends_a_row(model):
    inputs = prompt(model, "image", batch=1)
    free = model.generate(**inputs, max_new_tokens=6, do_sample=False, eos_token_id=None)[0, -6:]
    stopped = model.generate(**inputs, max_new_tokens=6, do_sample=False, eos_token_id=int(free[2]))[0]
    first = free.tolist().index(int(free[2]))
    assert stopped.tolist()[-(first + 1) :] == free[: first + 1].tolist()


def test_ids_that_the_tokenizer_lacks_are_never_emitted():
    model = randomised(OmniLatentConfig.tiny(text_vocab_size=7))
    out = model.generate(**prompt(model, "audio"), max_new_tokens=20, do_sample=True, eos_token_id=None)
    assert out[:, -20:].max() < 7


def test_plain_text_is_continued_as_by_any_language_model(model):
    ids = torch.randint(3, 259, (2, 7), generator=torch.Generator().manual_seed(2))
    out = model.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=None, pad_token_id=0)
    for _ in range(4):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(out, ids)


@pytest.mark.parametrize("mode", ["image", "audio", "video"])
def test_other_modalities_come_in_one_pass_and_equal_the_call(model, mode):
    text = sources()["text"]
    expected = model("text", text, mode)["output"]
    laid_out = lay_out(model.config, {"text": text}, {"text": None})
    out = model.generate(
        input_ids=laid_out["input_ids"],
        attention_mask=laid_out["attention_mask"],
        token_type_ids=laid_out["token_type_ids"],
        generation_mode=mode,
    )
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("opened", ["text", "audio", "image"])
def test_a_target_that_the_prompt_opened_already_does_not_matter(model, opened):
    text = sources()["text"]
    laid_out = lay_out(model.config, {"text": text}, {opened: None})
    keys = ("input_ids", "attention_mask", "token_type_ids")
    out = model.generate(**{key: laid_out[key] for key in keys}, generation_mode="audio")
    torch.testing.assert_close(out, model("text", text, "audio")["output"], rtol=1e-4, atol=1e-5)


def test_the_size_of_another_modality_can_be_chosen(model):
    out = model.generate(sources()["text"], generation_mode="image", target_size=(16, 48))
    assert out.shape == (2, 3, 16, 48)


def test_an_unknown_mode_is_refused(model):
    with pytest.raises(ValueError, match="'smell'.*text, audio, image, video"):
        model.generate(sources()["text"], generation_mode="smell")


def test_a_misspelt_word_is_refused(model):
    with pytest.raises(ValueError, match="pixel_valuse"):
        model.generate(sources()["text"], generation_mode="image", pixel_valuse=torch.zeros(1))


def test_what_follows_a_video_is_another_target_than_the_video(model):
    video = sources()["video"]
    same, later = (model("video", video, "video", target_starts={"video": start})["output"] for start in (0.0, 0.5))
    assert not torch.allclose(same, later)
    laid_out = lay_out(model.config, {"video": video}, {"text": None})
    torch.testing.assert_close(model.generate(**laid_out, generation_mode="video", target_start=0.5), later)


def test_text_has_no_target_size(model):
    with pytest.raises(ValueError, match="max_new_tokens"):
        model.generate(sources()["text"], target_size=(3,))


def test_a_prompt_that_ends_within_its_sources_gets_a_text_target(model):
    image = sources()["image"]
    bare = lay_out(model.config, {"image": image}, {})
    opened = prompt(model, "image")
    settings = dict(max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert torch.equal(model.generate(**bare, **settings), model.generate(**opened, **settings))
    bare.pop("token_type_ids")
    assert torch.equal(model.generate(**bare, **settings), model.generate(**opened, **settings))


def test_text_behind_a_picture_steers_another_modality(model):
    image = sources()["image"]
    ids = lay_out(model.config, {"image": image}, {})["input_ids"]
    pictures = []
    for text in (5, 9):
        prompted = torch.cat([ids, torch.full((2, 3), text)], dim=1)
        pictures.append(model.generate(prompted, pixel_values=image, generation_mode="image"))
    assert not torch.allclose(*pictures)
