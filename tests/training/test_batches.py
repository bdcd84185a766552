"""A batch by views and rows."""

import pytest
import torch

from omnilatent import OmniLatentConfig
from omnilatent.training.batches import blank_batch, read_batch
from omnilatent.training.data import collate_multimodal

CONFIG = OmniLatentConfig.tiny()


def read(batch):
    return read_batch(batch, CONFIG, "cpu")


def test_rows_with_needs_every_modality_behind_the_views(items):
    both, silent = items(2), items(3, ("image", "video"))
    batch = read(collate_multimodal([both[0], silent[1], both[1], silent[2]]))
    assert batch.rows_with(["past", "future"]).tolist() == [True, True, True, True]
    assert batch.rows_with(["video", "audio"]).tolist() == [True, False, True, False]
    assert batch.rows_with(["image", "text"]).tolist() == [True, False, True, False]


def test_row_of_text_without_a_token_lacks_text():
    batch = read({"text": torch.tensor([[5, 6], [0, 0], [0, 7]])})
    assert batch.rows_with(["text"]).tolist() == [True, False, True]
    assert batch.rows_with(["audio"]).tolist() == [False, False, False]


def test_past_and_future_are_the_halves_in_time():
    video = torch.arange(2 * 3 * 4 * 16 * 16).float().reshape(2, 3, 4, 16, 16)
    mask = torch.zeros(2, 4, 16, 16)
    mask[:, 3] = 1
    batch = read({"video": video, "video_mask": mask})
    past, past_mask = batch.view("past")
    future, future_mask = batch.view("future")
    assert torch.equal(past, video[:, :, :2]) and torch.equal(future, video[:, :, 2:])
    assert not past_mask.any() and torch.equal(future_mask, mask[:, 2:].bool())


def test_take_keeps_tensors_masks_and_presence_together(items):
    raw = collate_multimodal(items(5))
    raw["audio_mask"] = torch.arange(24).expand(5, 24) < torch.tensor([[3], [7], [11], [13], [17]])
    taken = read(raw).take(torch.tensor([False, True, False, False, True]))
    assert torch.equal(taken.values["image"], raw["image"][[1, 4]])
    assert taken.masks["audio"].sum(1).tolist() == [7, 17]
    assert taken.rows_with(["text"]).tolist() == [True, True]


def test_shift_moves_the_sources_and_leaves_the_targets(items):
    raw = collate_multimodal(items(3))
    laid_out = read(raw).lay_out(CONFIG, "image", ["audio"], shift=1)
    assert torch.equal(laid_out["pixel_values"], raw["image"][[2, 0, 1]])
    assert torch.equal(laid_out["audio_labels"], raw["audio"])


def test_raw_clips_become_model_inputs():
    raw = {
        "video": torch.full((2, 4, 3, 16, 16), 255, dtype=torch.uint8),
        "image": torch.zeros(2, 3, 32, 32, dtype=torch.uint8),
        "audio": torch.zeros(2, 3840, dtype=torch.int16),
        "has_audio": torch.tensor([True, False]),
        "path": ["a.mp4", "b.mp4"],
    }
    batch = read(raw)
    assert batch.values["video"].shape == (2, 3, 4, 16, 16) and batch.values["video"].eq(1).all()
    assert batch.values["image"].eq(-1).all()
    assert batch.values["audio"].shape == (2, 16, 24)
    assert batch.present["audio"].tolist() == [True, False]


def test_blank_batch_can_serve_every_view():
    for source in ("text", "audio", "image", "video"):
        for target in ("text", "audio", "image", "video"):
            batch = blank_batch(CONFIG, [source, target], "cpu")
            assert len(batch.lay_out(CONFIG, source, [target])["input_ids"]) == 1
    assert blank_batch(CONFIG, ["past", "future"], "cpu").view("past")[0].shape == (1, 3, 2, 16, 16)


def test_batch_of_nothing_known_is_refused():
    with pytest.raises(ValueError, match="smell"):
        read({"smell": torch.zeros(2, 3)})


def test_unequal_numbers_of_rows_are_refused(items):
    raw = collate_multimodal(items(3))
    with pytest.raises(ValueError, match="'image': 2"):
        read({"text": raw["text"], "image": raw["image"][:2]})
