"""Writing text, with and without a cache, and drawing pictures."""

import pytest
import torch
from transformers import AutoModelForImageTextToText

from omnilatent import (
    MultiModalForCaptioning,
    MultiModalForConditionalGeneration,
    MultiModalForImageGeneration,
    MultiModalProcessor,
)
from omnilatent.modeling_omni.multimodal.modeling_multimodal_generation import shift_right
from omnilatent.modeling_omni.multimodal.stream_inputs import take_streams

from .conftest import LAYERS, make_config, make_inputs, randomise

DECODER = {"vocab_size": 71, "max_position_embeddings": 32, **LAYERS}
WAYS = {"greedy": {}, "beams": {"num_beams": 3}, "static": {"cache_implementation": "static", "disable_compile": True}}


def make_writer(cls=MultiModalForConditionalGeneration, **settings):
    torch.manual_seed(0)
    # tied weights would repeat one word whatever was read
    return randomise(cls(make_config(**{"tie_word_embeddings": False, **settings})), std=0.4)


def write(model, **words):
    return model.generate(**words, max_new_tokens=6, min_new_tokens=6, do_sample=False)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("position", ["learned", "sinusoidal", "rotary", "none"])
def test_writing_with_a_cache_equals_writing_without(way, position):
    model = make_writer(decoder_config={**DECODER, "position": position})
    inputs = make_inputs(batch=7)
    plain = {name: value for name, value in WAYS[way].items() if name == "num_beams"}
    expected = write(model, **inputs, use_cache=False, **plain)
    assert len({tuple(row) for row in expected.tolist()}) > 1, "all rows write the same: the test would see little"
    assert torch.equal(write(model, **inputs, **WAYS[way]), expected)


@pytest.mark.parametrize("way", WAYS)
def test_padding_before_a_prompt_changes_nothing(way):
    model = make_writer(MultiModalForCaptioning)
    pixels = make_inputs()["pixel_values"]
    prompts = torch.tensor([[1, 9, 8, 7], [0, 0, 1, 5]])
    words = {"input_ids": prompts, "attention_mask": (prompts != 0).long(), "pixel_values": pixels}
    together = write(model, **words, **WAYS[way])
    alone = write(model, pixel_values=pixels[1:], input_ids=prompts[1:, 2:], **WAYS[way])
    assert together[0, :4].tolist() == [1, 9, 8, 7]
    assert torch.equal(together[1, 4:], alone[0, 2:])


@pytest.mark.parametrize("masked", [False, True])
def test_a_cache_longer_than_the_learned_positions_is_refused(masked):
    model, inputs = make_writer(decoder_config={**DECODER, "max_position_embeddings": 5}), make_inputs()
    cache = model(**inputs, decoder_input_ids=torch.full((2, 5), 9), use_cache=True).past_key_values
    words = {"decoder_attention_mask": torch.ones(2, 6, dtype=torch.long)} if masked else {}
    with pytest.raises(ValueError, match="There are 5 learned positions, got 6 tokens"):
        model(**inputs, decoder_input_ids=torch.full((2, 1), 9), past_key_values=cache, use_cache=True, **words)


@pytest.mark.parametrize("way", WAYS)
def test_writing_beyond_the_learned_positions_is_refused(way):
    model = make_writer(decoder_config={**DECODER, "max_position_embeddings": 5})
    with pytest.raises(ValueError, match="There are 5 learned positions, got 6 tokens"):
        write(model, **make_inputs(), **WAYS[way])


def test_pixels_start_from_the_decoders_own_standard_deviation():
    torch.manual_seed(0)
    decoder = MultiModalForImageGeneration(make_config(decoder_config={**DECODER, "initializer_range": 0.5})).decoder
    drawn = [layer.weight for layer in decoder.modules() if isinstance(layer, torch.nn.Linear)]
    assert all(weight.std().item() == pytest.approx(0.5, rel=0.15) for weight in drawn)


def test_each_step_has_the_logits_of_the_whole():
    model, inputs = make_writer(), make_inputs()
    tokens = torch.tensor([[1, 9, 8, 7, 5], [1, 3, 4, 6, 2]])
    whole = model(**inputs, decoder_input_ids=tokens, use_cache=False).logits
    cache, encoded = None, None
    for step in range(5):
        words = {"encoder_outputs": encoded} if encoded is not None else inputs
        encoded = encoded or model.encode_for_decoder(take_streams(model.config, inputs))
        output = model(**words, decoder_input_ids=tokens[:, step : step + 1], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        torch.testing.assert_close(output.logits[:, 0], whole[:, step], atol=1e-5, rtol=1e-4)


def test_later_words_do_not_change_earlier_logits():
    model, inputs = make_writer(), make_inputs()
    tokens = torch.tensor([[1, 9, 8, 7, 5], [1, 3, 4, 6, 2]])
    first = model(**inputs, decoder_input_ids=tokens).logits
    tokens[:, 3:] = 11
    second = model(**inputs, decoder_input_ids=tokens).logits
    assert torch.equal(first[:, :3], second[:, :3]) and not torch.equal(first[:, 3:], second[:, 3:])


def test_labels_are_the_words_after_each(labels):
    model, inputs = make_writer(), make_inputs()
    loss = model(**inputs, labels=labels).loss
    logits = model(**inputs, decoder_input_ids=torch.tensor([[1, 9, 8], [1, 7, 2]])).logits.log_softmax(-1)
    said = [(0, 0, 9), (0, 1, 8), (0, 2, 2), (1, 0, 7), (1, 1, 2)]
    torch.testing.assert_close(loss, -sum(logits[place] for place in said) / 5)
    assert shift_right(labels, model.config.decoder_config).tolist() == [[1, 9, 8], [1, 7, 2]]


def test_padding_of_the_question_changes_nothing():
    model, inputs = make_writer(), make_inputs()
    padded = torch.nn.functional.pad(inputs["input_ids"], (2, 0), value=9)
    mask = torch.nn.functional.pad(torch.ones_like(inputs["input_ids"]), (2, 0))
    assert torch.equal(write(model, **inputs), write(model, **inputs | {"input_ids": padded, "attention_mask": mask}))


@pytest.mark.parametrize("name", ["input_ids", "pixel_values"])
def test_what_to_write_about_may_be_one_modality(name):
    model, inputs = make_writer(), make_inputs()
    alone = write(model, **{name: inputs[name]})
    assert alone.shape == (2, 7) and not torch.equal(alone, write(model, **inputs))


@pytest.mark.parametrize("second", ["audio", "video"])
def test_sound_and_videos_are_captioned(second, labels):
    torch.manual_seed(0)
    model, inputs = randomise(MultiModalForCaptioning(make_config(second))), make_inputs(second)
    inputs.pop("input_ids")
    model(**inputs, labels=labels).loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert torch.equal(write(model, **inputs), write(model, **inputs, use_cache=False))


def test_end_ends_a_row():
    model, inputs = make_writer(), make_inputs()
    written = write(model, **inputs)
    model.generation_config.eos_token_id = int(written[0, 3])
    ended = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    assert (ended[0, 4:] == 0).all()


def test_output_layer_is_the_embedding_also_after_loading(tmp_path):
    model = make_writer(tie_word_embeddings=True)
    assert model.lm_head.weight is model.decoder.embed_tokens.weight
    model.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    assert again.lm_head.weight is again.decoder.embed_tokens.weight
    assert torch.equal(write(again, **make_inputs()), write(model, **make_inputs()))
    free = MultiModalForConditionalGeneration(make_config(tie_word_embeddings=False))
    assert free.lm_head.weight is not free.decoder.embed_tokens.weight


def test_new_tokens_are_read_and_written(tmp_path):
    model = make_writer(tie_word_embeddings=True)
    model.resize_token_embeddings(80)
    model.save_pretrained(tmp_path)
    again = MultiModalForConditionalGeneration.from_pretrained(tmp_path)
    inputs = make_inputs() | {"input_ids": torch.tensor([[79, 5]] * 2)}
    assert again(**inputs, labels=torch.tensor([[78, 2]] * 2)).logits.shape == (2, 2, 80)
    assert again.lm_head.weight is again.decoder.embed_tokens.weight


def test_one_config_makes_models_of_several_tasks():
    config = make_config()
    writer, drawer = MultiModalForCaptioning(config), MultiModalForImageGeneration(config)
    assert writer.config.is_encoder_decoder and not drawer.config.is_encoder_decoder
    assert writer.can_generate() and not drawer.can_generate()


def test_a_model_without_a_decoder_is_refused():
    for cls in (MultiModalForCaptioning, MultiModalForConditionalGeneration, MultiModalForImageGeneration):
        with pytest.raises(ValueError, match="`decoder_config` is None"):
            cls(make_config(decoder_config=None))


def test_nothing_to_write_about_is_refused():
    with pytest.raises(ValueError, match="Nothing to write about"):
        make_writer().generate(max_new_tokens=3)


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_a_picture_is_learned_from_a_text():
    torch.manual_seed(0)
    model = MultiModalForImageGeneration(make_config())
    texts = torch.tensor([[5, 6, 7], [8, 9, 7]])
    pictures = torch.zeros(2, 3, 12, 12)
    pictures[0, :, :4, :4], pictures[1, 0, 8:, 4:8] = 1.0, -1.0
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(50):
        loss = model(input_ids=texts, labels=pictures).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    drawn = model.eval().generate_image(input_ids=texts)
    assert ((drawn - pictures) ** 2).mean() < 0.1 * (pictures**2).mean()
    assert ((drawn.flip(0) - pictures) ** 2).mean() > (pictures**2).mean()


def test_padding_of_the_text_changes_no_pixel():
    torch.manual_seed(0)
    model = randomise(MultiModalForImageGeneration(make_config()))
    texts = torch.tensor([[5, 6, 7]])
    mask = torch.tensor([[0, 0, 1, 1, 1]])
    drawn = model.generate_image(input_ids=torch.nn.functional.pad(texts, (2, 0), value=4), attention_mask=mask)
    torch.testing.assert_close(drawn, model.generate_image(input_ids=texts), atol=1e-5, rtol=1e-4)


def test_a_picture_of_another_size_is_refused():
    with pytest.raises(ValueError, match="has shape"):
        MultiModalForImageGeneration(make_config())(
            input_ids=torch.ones(2, 3, dtype=torch.long), labels=torch.ones(2, 3, 8, 8)
        )


def test_texts_come_back_from_ids():
    processor = MultiModalProcessor.from_config(
        make_config(text_config={"vocab_size": 384, **LAYERS}, decoder_config={"vocab_size": 384, **LAYERS})
    )
    labels = processor.encode_targets(["ein Käfer", "zwei"])["labels"]
    assert labels[1].tolist()[4:] == [2] + [-100] * 6
    assert processor.batch_decode(labels.clamp(min=0), skip_special_tokens=True) == ["ein Käfer", "zwei"]
