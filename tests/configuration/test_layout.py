"""The sequence as data: hand-written sequences of small cases."""

import pytest
import torch

from omnilatent import OmniLatentConfig
from omnilatent.configuration.layout import count_tokens, lay_out, target_size

CONFIG = OmniLatentConfig.tiny()
IMAGE, TO_TEXT, TO_AUDIO = CONFIG.image_token_id, CONFIG.text_target_token_id, CONFIG.audio_target_token_id
SLOT, PAD, BOS, EOS = CONFIG.audio_slot_token_id, CONFIG.pad_token_id, CONFIG.bos_token_id, CONFIG.eos_token_id


def test_sources_then_targets_with_their_segments():
    image, text = torch.zeros(1, 3, 16, 8), torch.tensor([[7, 8]])
    laid_out = lay_out(CONFIG, {"image": image, "text": text}, {"text": torch.tensor([[9]]), "audio": 6})
    assert laid_out["input_ids"].tolist() == [[7, 8, IMAGE, IMAGE, TO_TEXT, BOS, 9, EOS, TO_AUDIO, SLOT, SLOT]]
    assert laid_out["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2]]
    assert laid_out["labels"].tolist() == [[-100] * 6 + [9, EOS] + [-100] * 3]
    assert laid_out["logits_to_keep"].tolist() == [4, 5, 6, 7]
    assert laid_out["target_sizes"] == {"text": (), "audio": (6,)}
    assert torch.equal(laid_out["pixel_values"], image) and "audio_labels" not in laid_out


def test_eos_follows_the_last_token_of_each_row():
    laid_out = lay_out(CONFIG, {"text": torch.tensor([[7], [7]])}, {"text": torch.tensor([[3, 4, 5], [6, PAD, PAD]])})
    assert laid_out["input_ids"][:, 3:].tolist() == [[3, 4, 5, EOS], [6, EOS, PAD, PAD]]
    assert laid_out["attention_mask"][:, 3:].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert laid_out["labels"][:, 3:].tolist() == [[3, 4, 5, EOS], [6, EOS, -100, -100]]


def test_text_padded_on_the_left_is_the_same_target():
    right, left = ([[6, 7, PAD]], [[PAD, 6, 7]])
    first, second = (
        lay_out(CONFIG, {"text": torch.tensor([[5]])}, {"text": torch.tensor(ids)}) for ids in (right, left)
    )
    assert torch.equal(first["input_ids"], second["input_ids"]) and torch.equal(first["labels"], second["labels"])


def test_an_open_text_target_ends_with_bos():
    laid_out = lay_out(CONFIG, {"text": torch.tensor([[5]])}, {"text": None})
    assert laid_out["input_ids"].tolist() == [[5, TO_TEXT, BOS]] and "labels" not in laid_out


def test_padding_of_a_source_is_masked():
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[:, :8, :8] = True
    laid_out = lay_out(CONFIG, {"image": torch.zeros(1, 3, 16, 16)}, {}, {"image": mask})
    assert laid_out["input_ids"].tolist() == [[IMAGE, PAD, PAD, PAD]]
    assert laid_out["attention_mask"].tolist() == [[1, 0, 0, 0]]


def test_a_twin_is_written_for_targets_that_are_no_source():
    text, audio = torch.tensor([[7]]), torch.zeros(1, 16, 4)
    laid_out = lay_out(CONFIG, {"text": text}, {"text": text, "audio": audio}, contrast=True)
    assert laid_out["twins"] == {"audio": -2}
    assert laid_out["token_type_ids"][0].tolist()[-1:] == [-2]
    assert laid_out["input_ids"][0, -1] == CONFIG.audio_token_id


def test_video_goes_from_channels_first_to_frames_first():
    video = torch.randn(2, 3, 4, 16, 8)
    laid_out = lay_out(CONFIG, {"video": video}, {"video": video})
    assert torch.equal(laid_out["pixel_values_videos"], video.transpose(1, 2))
    assert torch.equal(laid_out["video_labels"], video.transpose(1, 2))


@pytest.mark.parametrize(
    "name, size, tokens", [("audio", (1,), 1), ("audio", (9,), 3), ("image", (24, 40), 15), ("video", (6, 16, 24), 18)]
)
def test_tokens_are_counted_by_size(name, size, tokens):
    assert count_tokens(CONFIG, name, size) == tokens


def test_the_default_sizes_are_the_configs():
    assert [target_size(CONFIG, name) for name in ("audio", "image", "video")] == [(24,), (32, 32), (4, 16, 16)]


@pytest.mark.parametrize(
    "size, message", [((8, 9), "9 pixels wide"), ((8,), "has 2 numbers"), ((8, 128), "at most 64")]
)
def test_a_size_that_cannot_be_is_refused(size, message):
    with pytest.raises(ValueError, match=message):
        lay_out(CONFIG, {"text": torch.tensor([[5]])}, {"image": size})
