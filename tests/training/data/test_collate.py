import datasets
import numpy as np
import pytest
import torch

from omnilatent import OmniLatentConfig, OmniLatentTokenizer
from omnilatent.processing.feature_extraction_omnilatent import OmniLatentFeatureExtractor
from omnilatent.training.data import collate_multimodal, encode_bytes, past_and_future, to_model_inputs


def item(*names, length=5, frames=7):
    values = {
        "text": torch.arange(3, 3 + length),
        "audio": torch.rand(11, frames),
        "image": torch.rand(3, 13, 17),
        "video": torch.rand(3, 2, 5, 5),
    }
    return {name: values[name] for name in names}


def test_any_subset_of_modalities_becomes_a_batch():
    for names in (["text"], ["image", "audio"], ["text", "audio", "image", "video"]):
        items = [item(*names), item(*names)]
        batch = collate_multimodal(items)
        assert set(batch) == set(names)
        for name in names:
            assert torch.equal(batch[name], torch.stack([one[name] for one in items]))


def test_text_is_padded_with_zeros():
    text = collate_multimodal([item("text", length=2), item("text", length=4)])["text"]
    assert text.tolist() == [[3, 4, 0, 0], [3, 4, 5, 6]]


def test_audio_is_padded_with_silence_and_masked():
    short, long = item("audio", frames=3), item("audio", frames=7)
    batch = collate_multimodal([short, long])
    assert torch.equal(batch["audio"][0, :, :3], short["audio"])
    assert batch["audio"][0, :, 3:].eq(-1).all()
    assert torch.equal(batch["audio"][1], long["audio"])
    assert batch["audio_mask"].tolist() == [[True] * 3 + [False] * 4, [True] * 7]


def test_a_modality_that_some_items_lack_is_flagged():
    full, poor = item("text", "audio", "image", "video"), item("image")
    batch = collate_multimodal([poor, full])
    assert "has_image" not in batch
    for name, padding in (("text", 0), ("audio", -1), ("video", 0)):
        assert batch[f"has_{name}"].tolist() == [False, True]
        assert torch.equal(batch[name][1], full[name])
        assert batch[name][0].eq(padding).all()
    assert "audio_mask" not in batch


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "no items"),
        ([{"sound": torch.zeros(3)}], r"Item 0 has the keys \['sound'\].*text, audio, image, video"),
        ([item("text"), "words"], "Item 1 is of type str"),
        ([None, None], "None of the 2 items"),
        ([item("text"), {"text": "words"}], "'text' of item 1 is of type str"),
        ([{"text": [0.5, 2.0]}], "'text' of item 0 is of type torch.float32: expected integers"),
        ([{"image": [[[1, 2], [3]]]}], "'image' of item 0 is of type list"),
        ([{"image": np.zeros((3, 2, 2), np.int64)}], "'image' of item 0 is of type torch.int64: expected floats"),
        ([item("text"), {}], "Item 1"),
        ([{"image": torch.zeros(3, 4)}], r"'image' of item 0 has shape \(3, 4\): expected 3"),
        ([item("image"), {"image": torch.zeros(3, 4, 4)}], r"\(3, 4, 4\), \(3, 13, 17\)"),
        ([item("audio"), {"audio": torch.zeros(12, 7)}], r"mel bands: \[11, 12\]"),
    ],
)
def test_what_is_no_batch_is_named(items, message):
    with pytest.raises(ValueError, match=message):
        collate_multimodal(items)


def test_rows_of_a_dataset_become_a_batch_without_their_other_columns():
    items = [item("text", "image"), item("text", "image", length=4)]
    rows = [{name: value.tolist() for name, value in one.items()} | {"id": "a"} for one in items]
    batch = collate_multimodal([row for row in datasets.Dataset.from_list(rows)])
    expected = collate_multimodal(items)
    assert batch.keys() == expected.keys()
    for name, value in expected.items():
        assert batch[name].dtype == value.dtype
        torch.testing.assert_close(batch[name], value)


def test_arrays_become_a_batch_in_single_precision():
    one = {name: value.numpy() for name, value in item("text", "audio", "image", "video").items()}
    batch = collate_multimodal([{**one, "audio": one["audio"].astype(np.float64)}])
    assert {name: value.dtype for name, value in batch.items()} == {
        "text": torch.int64,
        **dict.fromkeys(("audio", "image", "video"), torch.float32),
    }
    np.testing.assert_array_equal(batch["audio"][0], one["audio"])


def test_items_that_could_not_be_read_are_left_out_and_counted():
    items = [item("image"), None, item("image"), None, None]
    batch = collate_multimodal(items)
    assert torch.equal(batch["image"], torch.stack([items[0]["image"], items[2]["image"]]))
    assert batch["dropped"] == 3


def test_a_video_in_bytes_with_colours_at_the_wrong_place_is_named_as_it_came():
    raw = {"video": torch.zeros(2, 3, 8, 16, 16, dtype=torch.uint8)}
    with pytest.raises(ValueError, match=r"'video' has shape \(2, 3, 8, 16, 16\): expected \(B, T, 3, H, W\)"):
        to_model_inputs(raw, OmniLatentConfig.tiny())


@pytest.mark.parametrize("text", ["", "Hi", "Grüße, 世界 🌍", "a\tb\n"])
def test_bytes_are_encoded_as_the_tokenizer_does(text):
    assert encode_bytes(text, 100).tolist() == OmniLatentTokenizer()(text)["input_ids"]


def test_no_character_is_cut_in_two():
    assert bytes((encode_bytes("ab世界", 6) - 3).tolist()).decode() == "ab世"


def raw_batch():
    generator = torch.Generator().manual_seed(0)

    def bytes_of(*shape):
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)

    return {
        "video": bytes_of(2, 5, 3, 7, 7),
        "image": bytes_of(2, 3, 11, 11),
        "audio": torch.randint(-9000, 9000, (2, 3200), dtype=torch.int16, generator=generator),
        "text": torch.tensor([[5, 6], [7, 0]]),
        "has_audio": torch.tensor([True, False]),
        "has_text": torch.tensor([True, True]),
        "path": ["a", "b"],
        "stream_state": {"epoch": 0},
    }


def test_raw_batches_become_model_inputs():
    raw, config = raw_batch(), OmniLatentConfig.tiny()
    inputs = to_model_inputs(raw, config)
    assert set(inputs) == {"text", "audio", "image", "video", "has_audio", "has_text"}
    assert inputs["video"].shape == (2, 3, 5, 7, 7) and inputs["audio"].shape == (2, 16, 20)
    # a frame at one place: frame 4, green, row 2, column 3
    assert inputs["video"][1, 1, 4, 2, 3].item() == pytest.approx(raw["video"][1, 4, 1, 2, 3].item() / 127.5 - 1)
    assert inputs["image"].min() >= -1 and inputs["image"].max() <= 1
    extractor = OmniLatentFeatureExtractor(feature_size=16)
    expected = extractor([wave.numpy() for wave in raw["audio"]], return_tensors="pt")["input_features"]
    torch.testing.assert_close(inputs["audio"], expected, rtol=0, atol=1e-5)


def test_the_extractor_decides_where_it_is_given():
    inputs = to_model_inputs(raw_batch(), OmniLatentConfig.tiny(), OmniLatentFeatureExtractor(feature_size=24))
    assert inputs["audio"].shape == (2, 24, 20)


def test_model_inputs_pass_unchanged():
    ready = {
        "text": torch.tensor([[5, 6]]),
        "audio": torch.rand(1, 16, 9),
        "image": torch.rand(1, 3, 8, 8),
        "video": torch.rand(1, 3, 4, 8, 8),
        "audio_mask": torch.ones(1, 9, dtype=torch.bool),
    }
    inputs = to_model_inputs(ready, OmniLatentConfig.tiny())
    assert inputs.keys() == ready.keys()
    assert all(torch.equal(inputs[name], value) for name, value in ready.items())
    with pytest.raises(ValueError, match=r"'image' has shape \(3, 8, 8\)"):
        to_model_inputs({"image": torch.rand(3, 8, 8)}, OmniLatentConfig.tiny())


def test_halves_are_past_and_future():
    video = torch.arange(2 * 6).reshape(2, 6, 1, 1, 1).expand(2, 6, 3, 4, 4)
    past, future = past_and_future(video)
    assert past[0, :, 0, 0, 0].tolist() == [0, 1, 2] and future[1, :, 0, 0, 0].tolist() == [9, 10, 11]
    with pytest.raises(ValueError, match="1 frame"):
        past_and_future(video[:, :1])
