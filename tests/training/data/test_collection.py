"""Collections of `datasets` tables: rows at hand, rows that stream, repositories; and small copies."""

import json
from itertools import islice

import pytest
import torch
from datasets import Dataset, IterableDataset, Video

from omnilatent.training.data import (
    NoUsableClipsError,
    TooManyBadClipsError,
    VideoCollection,
    VideoLoader,
    prepare_proxies,
)

MEASURES = {"clip_duration": 1.0, "clip_stride": 1.0, "fps": 4, "video_size": 16, "image_size": 24}


@pytest.fixture(scope="module")
def rows(tmp_path_factory, media):
    """Twelve short videos, one of them broken, as rows of paths."""
    folder = tmp_path_factory.mktemp("rows")
    paths = [str(media.write_video(folder / f"r{i:02d}.mp4", seconds=1 + i % 3, sound=i % 4 > 0)) for i in range(11)]
    (folder / "r11.mp4").write_bytes(b"broken")
    return [{"video": path, "text": f"number {i}"} for i, path in enumerate([*paths, str(folder / "r11.mp4")])]


@pytest.fixture(scope="module")
def parquet(rows, tmp_path_factory):
    """A repository on disk: two shards with the bytes of the videos."""
    folder = tmp_path_factory.mktemp("repository")
    for shard, part in enumerate((rows[:5], rows[5:])):
        table = Dataset.from_list(
            [{"video": {"path": None, "bytes": open(row["video"], "rb").read()}, "text": row["text"]} for row in part]
        ).cast_column("video", Video(decode=False))
        table.to_parquet(folder / f"train-{shard:05d}-of-00002.parquet")
    return folder


NUM_CLIPS = sum(1 + i % 3 for i in range(11))


def words(batch):
    return [bytes((ids[ids > 0] - 3).tolist()).decode() for ids in batch["text"]]


def epoch(collection, **keywords):
    batches = list(VideoLoader(collection, 4, epochs=1, **keywords))
    return sorted((text, start) for b in batches for text, start in zip(words(b), b["start"].tolist()))


EXPECTED = sorted((f"number {i}", float(second)) for i in range(11) for second in range(1 + i % 3))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_dataset_of_paths_or_bytes_gives_its_clips(rows, parquet, workers):
    paths = VideoCollection.from_dataset(Dataset.from_list(rows).cast_column("video", Video()), **MEASURES)
    data = VideoCollection.from_hub(parquet, streaming=False, **MEASURES)
    for collection in (paths, data):
        assert collection.num_clips == NUM_CLIPS
        assert collection.skips.total == 1
        assert epoch(collection, num_workers=workers) == EXPECTED


@pytest.mark.parametrize("workers", [0, 2])
def test_a_streamed_repository_gives_its_clips(parquet, workers):
    collection = VideoCollection.from_hub(parquet, split="train", streaming=True, shuffle_rows=5, **MEASURES)
    assert collection.num_clips is None
    assert collection.modalities == ("text", "audio", "image", "video")
    loader = VideoLoader(collection, 4, epochs=1, num_workers=workers)
    seen = sorted((text, start) for b in loader for text, start in zip(words(b), b["start"].tolist()))
    assert seen == EXPECTED
    assert loader.skips.total == 1 and "InvalidDataError" in loader.skips.examples[0].reason


def test_a_stream_is_shuffled_within_its_blocks_and_differently_in_each_epoch(rows):
    def names(**keywords):
        stream = Dataset.from_list(rows[:11]).to_iterable_dataset(num_shards=2)
        collection = VideoCollection.from_dataset(stream, shuffle_rows=6, segments_per_task=2, **MEASURES)
        loader = VideoLoader(collection, NUM_CLIPS, **keywords)
        return [list(zip(words(batch), batch["start"].tolist())) for batch in islice(loader, 2)]

    in_order, _ = names(shuffle=False)
    first, second = names()
    assert [int(text.split()[1]) for text, _ in in_order] == sorted(int(text.split()[1]) for text, _ in in_order)
    assert sorted(first) == sorted(second) == sorted(in_order)
    assert first != in_order and first != second
    half = sum(1 + i % 3 for i in range(6))
    assert sorted(first[:half]) == sorted(in_order[:half])  # what is mixed is a block


def assert_same(batches, others):
    for batch, other in zip(batches, islice(others, len(batches)), strict=True):
        for name in ("video", "audio", "text", "start"):
            assert torch.equal(batch[name], other[name])


@pytest.mark.parametrize("source", ["repository", "rows", "generator"])
@pytest.mark.parametrize(("saved_by", "resumed_by"), [(0, 0), (1, 2)])
def test_resuming_a_stream_gives_the_same_remaining_batches(parquet, rows, source, saved_by, resumed_by):
    def loader(workers=0):
        if source == "repository":
            collection = VideoCollection.from_hub(parquet, shuffle_rows=3, segments_per_task=2, **MEASURES)
        else:
            stream = (
                Dataset.from_list(rows).to_iterable_dataset(num_shards=3)
                if source == "rows"
                else IterableDataset.from_generator(lambda: iter(rows))
            )
            collection = VideoCollection.from_dataset(stream, shuffle_rows=3, segments_per_task=2, **MEASURES)
        return VideoLoader(collection, 4, num_workers=workers)

    whole = list(islice(loader(), 13))  # more than two epochs
    for step in (1, 6, 9):
        first = loader(saved_by)
        state = [batch["stream_state"] for batch in islice(first, step)][-1]
        assert json.loads(json.dumps(state)) == state
        second = loader(resumed_by)
        second.load_state_dict(json.loads(json.dumps(state)))
        assert_same(whole[step : step + 2], second)
        third = loader()
        third.load_state_dict(second.state_dict())
        assert_same(whole[step + 2 : step + 4], third)


def test_ranks_share_a_stream(rows):
    def clips(rank, world_size):
        stream = Dataset.from_list(rows).to_iterable_dataset()
        collection = VideoCollection.from_dataset(stream, shuffle_rows=4, segments_per_task=1, **MEASURES)
        loader = VideoLoader(collection, 4, epochs=1, rank=rank, world_size=world_size)
        return [clip for batch in loader for clip in zip(words(batch), batch["start"].tolist())]

    assert sorted(clips(0, 2) + clips(1, 2)) == EXPECTED


def test_a_stream_without_rows_is_an_error():
    with pytest.raises(NoUsableClipsError, match="no rows"):
        VideoCollection.from_dataset(IterableDataset.from_generator(lambda: iter(())), **MEASURES)


def test_a_rotten_stream_is_an_error(rows):
    stream = IterableDataset.from_generator(lambda: iter(rows[-1:] * 40))
    loader = VideoLoader(VideoCollection.from_dataset(stream, shuffle_rows=8, **MEASURES), 2)
    with pytest.raises((NoUsableClipsError, TooManyBadClipsError), match=r"r11\.mp4"):
        next(iter(loader))


def test_columns_are_found_or_named(rows):
    table = Dataset.from_list([{"clip": row["video"], "caption": row["text"]} for row in rows[:2]])
    with pytest.raises(ValueError, match=r"\['clip', 'caption'\].*video_column"):
        VideoCollection.from_dataset(table, **MEASURES)
    with pytest.raises(ValueError, match="No column 'words'"):
        VideoCollection.from_dataset(table, video_column="clip", text_column="words", **MEASURES)
    collection = VideoCollection.from_dataset(table, video_column="clip", **MEASURES)
    assert epoch(collection) == [clip for clip in EXPECTED if clip[0] in ("number 0", "number 1")]


def test_words_with_times(rows):
    cues = [{"start": 0.0, "end": 0.9, "text": "one"}, {"start": 0.5, "end": 1.5, "text": "two"}]
    table = Dataset.from_list([{"video": rows[1]["video"], "text": cues}])
    assert epoch(VideoCollection.from_dataset(table, **MEASURES)) == [("one two", 0.0), ("two", 1.0)]
    with pytest.raises(ValueError, match="start.*end.*text"):
        VideoCollection.from_dataset(Dataset.from_list([{"video": rows[1]["video"], "text": ["one"]}]), **MEASURES)


def test_metadata_and_sidecars_reach_the_clips(tmp_path, media):
    for name in ("a", "b", "c"):
        media.write_video(tmp_path / f"{name}.mp4", seconds=2.0)
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a.mp4", "text": "caption"}))
    (tmp_path / "b.txt").write_text("one two three four")
    (tmp_path / "c.srt").write_text("00:00:00,000 --> 00:00:00,800\nspoken\n\n1\nbroken --> cue\n")
    collection = VideoCollection.from_folder(tmp_path, **MEASURES)
    assert epoch(collection, shuffle=False) == sorted(
        [("caption", 0.0), ("caption", 1.0), ("one two", 0.0), ("three four", 1.0), ("spoken", 0.0), ("", 1.0)]
    )
    (skip,) = collection.skips.examples
    assert skip.path.endswith("c.srt") and "1 cues without" in skip.reason and skip.clips == 0


def test_proxies_show_the_same_clips(tmp_path, media):
    spec = {"clip_duration": 1.0, "clip_stride": 0.5, "fps": 4, "video_size": 32, "image_size": 48}
    media.write_video(tmp_path / "in/sub/a.mkv", seconds=4.0, size=(160, 120))
    media.write_video(tmp_path / "in/b.mp4", seconds=3.0, size=(80, 120), sound_seconds=1.7)
    (tmp_path / "in/b.srt").write_text("00:00:00,000 --> 00:00:00,450\nspoken\n")
    cut = media.write_video(tmp_path / "in/c.mkv", seconds=4.0)
    cut.write_bytes(cut.read_bytes()[: int(0.6 * cut.stat().st_size)])
    originals = VideoCollection.from_folder(tmp_path / "in", **spec)
    copies = prepare_proxies(originals, tmp_path / "out")
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*")) == [
        "b.mp4",
        "b.srt",
        "c.mkv.mp4",
        "sub/a.mkv.mp4",
    ]
    assert [skip.path.rpartition("/")[2] for skip in copies.skips.examples] == ["c.mkv"]
    clips = [list(VideoLoader(c, 1, epochs=1, shuffle=False)) for c in (originals, copies)]
    names = [[(b["path"][0].rpartition("/")[2][0], b["start"].item()) for b in batches] for batches in clips]
    assert sorted(names[0]) == sorted(names[1])
    for original in clips[0]:
        (copy,) = [
            b
            for b in clips[1]
            if b["path"][0].rpartition("/")[2][0] == original["path"][0].rpartition("/")[2][0]
            and b["start"] == original["start"]
        ]
        assert words(copy) == words(original)
        assert copy["has_audio"].equal(original["has_audio"])
        number, expected = (media.frame_number(b["image"][0].numpy()) for b in (copy, original))
        assert number == expected
        if original["has_audio"]:
            heard, expected = (media.heard_time(b["audio"][0].numpy()) for b in (copy, original))
            assert heard == pytest.approx(expected, abs=0.03)
