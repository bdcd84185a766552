import pytest
import torch
from torch.utils.data import DataLoader

from omnilatent import OmniLatentConfig
from omnilatent.training.data import NoUsableClipsError, VideoWatchingDataset, collate_video_watching

CONFIG = OmniLatentConfig.tiny()


@pytest.fixture(scope="module")
def dataset(long_videos):
    return VideoWatchingDataset(video_dir=long_videos, config=CONFIG, clip_duration=1.0, clip_stride=0.5)


def test_items_are_ready_for_the_model(dataset):
    assert len(dataset) == 9 + 13 + 17
    item = dataset[9 + 13]
    assert item["video"].shape == (3, 8, 16, 16) and item["image"].shape == (3, 32, 32)
    assert item["audio"].shape == (16, 100) and item["audio"].abs().max() <= 1.2
    assert item["video"].dtype == torch.float32 and item["video"].abs().max() <= 1
    assert bytes((item["text"] - 3).tolist()).decode() == "first"
    assert "text" not in dataset[0]
    assert torch.equal(dataset[-1]["video"], dataset[len(dataset) - 1]["video"])
    with pytest.raises(IndexError):
        dataset[len(dataset)]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_plain_dataloader_reads_it(dataset, workers):
    loader = DataLoader(
        dataset,
        batch_size=4,
        shuffle=True,
        collate_fn=collate_video_watching,
        num_workers=workers,
        generator=torch.Generator().manual_seed(0),
    )
    batches = list(loader)
    assert sum(len(batch["video"]) for batch in batches) == len(dataset)
    assert sum(batch["has_text"].sum().item() for batch in batches) == 7
    assert all(batch["has_audio"].all() for batch in batches)


def test_a_batch_without_words_says_so(dataset):
    batch = collate_video_watching([dataset[0], dataset[1]])
    assert batch["has_text"].tolist() == [False, False] and "text" not in batch


def test_the_tokenizer_of_the_user_is_asked(long_videos):
    asked = []

    def tokenizer_fn(text, max_len):
        asked.append((text, max_len))
        return torch.tensor([4, 2], dtype=torch.long)

    dataset = VideoWatchingDataset(long_videos, CONFIG, tokenizer_fn=tokenizer_fn)
    (number,) = [i for i in range(len(dataset)) if "text" in dataset[i]][:1]
    assert dataset[number]["text"].tolist() == [4, 2]
    assert asked[0] == ("first", CONFIG.max_text_length)


def test_a_damaged_clip_is_replaced_and_reported(tmp_path, media, caplog):
    path = media.write_video(tmp_path / "a.mkv", seconds=4.0)
    media.write_video(tmp_path / "b.mp4", seconds=2.0)
    path.write_bytes(path.read_bytes()[: int(0.6 * path.stat().st_size)])
    dataset = VideoWatchingDataset(tmp_path, CONFIG, clip_duration=1.0, clip_stride=0.5)
    items = [dataset[i] for i in range(len(dataset))]
    assert len(items) == 7 + 3
    assert torch.equal(items[6]["video"], dataset[7]["video"])
    assert dataset.skips.clips > 0
    assert "Clip 6 cannot be read, the next good one replaces it" in caplog.text and "a.mkv" in caplog.text


def test_nothing_readable_is_an_error_and_no_endless_loop(tmp_path, media):
    path = media.write_video(tmp_path / "a.mp4", seconds=3.0)
    dataset = VideoWatchingDataset(tmp_path, CONFIG)
    path.unlink()
    with pytest.raises(NoUsableClipsError, match="None of 2 clips can be read"):
        dataset[1]
