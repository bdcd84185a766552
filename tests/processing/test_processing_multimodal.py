"""The processor of the multimodal models."""

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, CLIPImageProcessor

from omnilatent import (
    MultiModalConfig,
    MultiModalForCaptioning,
    MultiModalProcessor,
    OmniLatentTokenizer,
    create_model,
)

PICTURES = [Image.new("RGB", (80, 60), "orange"), Image.new("RGB", (40, 90), "blue")]


@pytest.fixture(scope="module")
def processor():
    return MultiModalProcessor.from_config(MultiModalConfig.tiny())


def test_what_it_makes_is_what_the_model_reads(processor):
    inputs = processor(images=PICTURES, text=["a red square", "two"], padding=True, return_tensors="pt")
    output = create_model("tiny_text_image_model")(**inputs)
    assert output.last_hidden_state.shape == (2, 12 + 36, 96)


@pytest.mark.parametrize(
    ("preset", "inputs", "name"),
    [
        ("tiny_text_audio_model", {"audio": [torch.randn(8000).numpy(), torch.randn(4000).numpy()]}, "input_features"),
        (
            "tiny_text_video_model",
            {"videos": [torch.zeros(12, 3, 40, 60, dtype=torch.uint8)] * 2},
            "pixel_values_videos",
        ),
    ],
)
def test_sounds_and_videos_are_read_likewise(preset, inputs, name, tmp_path):
    model = create_model(preset).eval()
    MultiModalProcessor.from_config(model.config).save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    made = processor(text=["one", "three"], padding=True, return_tensors="pt", **inputs)
    assert name in made
    if name == "input_features":
        assert made["audio_attention_mask"].sum(dim=1).tolist() == [50, 25]
    output = model(**made)
    assert output.last_hidden_state.isfinite().all() and len(output.pooler_output) == 2


def test_colours_lie_between_minus_one_and_one(processor):
    pixels = processor(images=[Image.new("RGB", (9, 9), (255, 0, 51))], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels[0, :, 5, 5], torch.tensor([1.0, -1.0, -0.6]))


def test_saved_beside_a_model_it_is_found_by_its_type(processor, tmp_path):
    create_model("tiny_text_image_model", task="captioning").save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert type(again) is MultiModalProcessor
    words = {"images": PICTURES, "text": ["ä", "bc"], "padding": True, "return_tensors": "pt"}
    first, second = processor(**words), again(**words)
    assert all(torch.equal(first[name], second[name]) for name in ("input_ids", "attention_mask", "pixel_values"))
    model = MultiModalForCaptioning.from_pretrained(tmp_path)
    assert len(again.batch_decode(model.generate(pixel_values=second["pixel_values"], max_new_tokens=3))) == 2


def test_targets_end_with_the_end_token_and_come_back(processor):
    labels = processor.encode_targets(["red", "zwei Käfer"])["labels"]
    assert labels.shape == (2, 12) and labels[0].tolist()[3:] == [2] + [-100] * 8
    assert processor.batch_decode(labels.clamp(min=0), skip_special_tokens=True) == ["red", "zwei Käfer"]
    assert processor.encode_targets(["zwei Käfer"], max_length=5)["labels"].tolist()[0][4:] == [2]


def test_a_target_may_be_empty(processor):
    assert processor.encode_targets([""])["labels"].tolist() == [[2]]


def test_long_texts_can_be_cut_to_what_the_model_reads(processor):
    inputs = processor(text=["x" * 999], truncation=True, return_tensors="pt")
    assert inputs["input_ids"].shape == (1, 128)


def test_other_image_processors_and_tokenizers_are_taken():
    tokenizer = OmniLatentTokenizer(special_token_offset=300, padding_side="right")
    processor = MultiModalProcessor(CLIPImageProcessor(size=32, crop_size=32), tokenizer)
    inputs = processor(images=PICTURES, text=["a", "bcd"], padding=True, return_tensors="pt")
    assert inputs["pixel_values"].shape == (2, 3, 32, 32) and inputs["attention_mask"][0].tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"image_config": {"feature_size": 8}}, "reads no pixels"),
        ({"audio_config": {"feature_size": 8}}, "reads no spectrograms"),
        ({"text_config": {"vocab_size": 100}}, "`text_config` has a `vocab_size` of 100, smaller"),
    ],
)
def test_models_that_it_does_not_fit_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        MultiModalProcessor.from_config(MultiModalConfig(**config))
