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


@pytest.fixture
def damaged(tmp_path, media):
    """7 clips, of which the last are damaged, and 3 good ones."""
    path = media.write_video(tmp_path / "a.mkv", seconds=4.0)
    media.write_video(tmp_path / "b.mp4", seconds=2.0)
    path.write_bytes(path.read_bytes()[: int(0.6 * path.stat().st_size)])
    return VideoWatchingDataset(tmp_path, CONFIG, clip_duration=1.0, clip_stride=0.5)


def test_a_damaged_clip_is_none_and_reported_once(damaged, caplog):
    items = [damaged[i] for i in range(len(damaged))]
    lost = [number for number, item in enumerate(items) if item is None]
    assert len(items) == 7 + 3 and lost and lost == list(range(lost[0], 7))
    assert damaged.skips.clips == len(lost)
    (record,) = caplog.records
    assert "A clip cannot be read" in record.getMessage() and "a.mkv" in record.getMessage()


def test_damaged_clips_are_left_out_of_a_batch_and_counted(damaged):
    batch = collate_video_watching([damaged[5], damaged[6], damaged[7], damaged[8]])
    kept = [item for item in (damaged[5], damaged[6], damaged[7], damaged[8]) if item is not None]
    assert torch.equal(batch["video"], torch.stack([item["video"] for item in kept]))
    assert batch["dropped"] == 4 - len(kept) > 0
    assert len(batch["has_audio"]) == len(batch["has_text"]) == len(kept)
    assert collate_video_watching([damaged[7]])["dropped"] == 0


def test_a_batch_of_damaged_clips_alone_is_an_error(tmp_path, media):
    path = media.write_video(tmp_path / "a.mp4", seconds=3.0)
    dataset = VideoWatchingDataset(tmp_path, CONFIG)
    path.unlink()
    with pytest.raises(NoUsableClipsError, match="None of the 2 items"):
        collate_video_watching([dataset[0], dataset[1]])


def test_a_text_that_is_too_long_is_cut_and_reported_once(tmp_path, media, caplog):
    media.write_video(tmp_path / "a.mp4", seconds=3.0)
    (tmp_path / "a.srt").write_text("00:00:00,000 --> 00:00:03,000\n" + "word " * 30)
    dataset = VideoWatchingDataset(tmp_path, OmniLatentConfig.tiny(max_text_length=100))
    assert [len(dataset[i]["text"]) for i in range(2)] == [100, 100]
    assert dataset.skips.reasons == {"text cut to 100 tokens": 2}
    (record,) = caplog.records
    assert "a.mp4 at 0.00 s: text cut to 100 tokens" in record.getMessage()
