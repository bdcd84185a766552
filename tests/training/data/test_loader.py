import importlib
import os
from itertools import islice

import pytest
import torch

from omnilatent import OmniLatentConfig
from omnilatent.training.data import (
    NoUsableClipsError,
    TooManyBadClipsError,
    VideoCollection,
    VideoLoader,
    build_dataloader,
)

CURIOUS_DECODER = """
import sys
from omnilatent.training.data.tasks import TaskDecoder, TaskResult


class CuriousDecoder(TaskDecoder):
    def __getitem__(self, task):
        result = super().__getitem__(task)
        loaded = str("transformers" in sys.modules)
        return TaskResult({**result.columns, "path": [loaded] * len(result)}, result.skips)
"""
MEASURES = {"clip_duration": 1.0, "clip_stride": 0.5, "fps": 4, "video_size": 16, "image_size": 24}


def collect(folder, **keywords):
    return VideoCollection.from_folder(folder, **{**MEASURES, **keywords})


@pytest.fixture(scope="module")
def collection(long_videos):
    # 9 + 13 + 17 clips; segments of 4, so that tasks of 2 segments end anywhere in a batch of 5
    return collect(long_videos, segment_duration=2.0, segments_per_task=2, seed=7)


def identity(batch):
    return list(zip([path.rpartition("/")[2] for path in batch["path"]], batch["start"].tolist()))


def clips_of(loader, batches):
    return [clip for batch in islice(loader, batches) for clip in identity(batch)]


def assert_equal(batch, other):
    assert batch.keys() == other.keys()
    for name, value in batch.items():
        assert torch.equal(value, other[name]) if torch.is_tensor(value) else value == other[name], name


def test_a_batch_has_the_promised_shapes(collection):
    batch = next(iter(VideoLoader(collection, 5)))
    assert batch["video"].shape == (5, 4, 3, 16, 16) and batch["video"].dtype == torch.uint8
    assert batch["image"].shape == (5, 3, 24, 24) and batch["image"].dtype == torch.uint8
    assert batch["audio"].shape == (5, 16000) and batch["audio"].dtype == torch.int16
    assert batch["text"].dtype == torch.long and batch["text"].shape[0] == 5
    assert batch["has_audio"].tolist() == [True] * 5
    assert batch["has_text"].tolist() == batch["text"].ne(0).any(dim=1).tolist()


def test_an_epoch_has_every_clip_once(collection, long_videos):
    assert collection.num_clips == 9 + 13 + 17
    planned = {(f"v{s}.mp4", i / 2) for s, n in ((5, 9), (7, 13), (9, 17)) for i in range(n)}
    for shuffle in (True, False):
        seen = clips_of(VideoLoader(collection, 5, epochs=1, shuffle=shuffle), None)
        assert len(seen) == len(planned) and set(seen) == planned
        assert (seen == sorted(seen)) is not shuffle


def test_epochs_differ_and_seeds_decide(collection, long_videos):
    two_epochs = clips_of(VideoLoader(collection, 39), 2)
    assert two_epochs[:39] != two_epochs[39:] and set(two_epochs[:39]) == set(two_epochs[39:])
    same = collect(long_videos, segment_duration=2.0, segments_per_task=2, seed=7)
    other = collect(long_videos, segment_duration=2.0, segments_per_task=2, seed=8)
    assert clips_of(VideoLoader(same, 39), 1) == two_epochs[:39]
    assert clips_of(VideoLoader(other, 39), 1) != two_epochs[:39]


def test_clips_of_a_task_come_from_several_places(collection):
    first = clips_of(VideoLoader(collection, 8), 1)
    starts = {(name, int(start // 2)) for name, start in first}
    assert len(starts) >= 2


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_order_of_tasks_does_not_know_the_number_of_ranks(collection, world_size):
    alone = list(islice(collection.tasks(), 24))
    clips = {task.number: sorted((p.label, s) for p in task.pieces for s in p.starts) for task in alone}
    for rank in range(world_size):
        wanted = [clip for number in range(rank, 12, world_size) for clip in clips[number]]
        loader = VideoLoader(collection, len(wanted), rank=rank, world_size=world_size)
        (batch,) = islice(loader, 1)
        assert sorted(zip(batch["path"], batch["start"].tolist())) == sorted(wanted)


def test_every_rank_always_gets_a_batch(collection, tmp_path, media):
    media.write_video(tmp_path / "only.mp4", seconds=1.5)
    single = collect(tmp_path)
    assert single.num_tasks == 1
    for rank in range(3):
        batches = list(islice(VideoLoader(single, 4, rank=rank, world_size=3), 3))
        assert [len(batch["path"]) for batch in batches] == [4, 4, 4]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_batches_do_not_depend_on_workers(collection, workers):
    alone = list(islice(VideoLoader(collection, 5), 9))
    for batch, other in zip(alone, VideoLoader(collection, 5, num_workers=workers)):
        assert_equal(batch, other)


@pytest.mark.parametrize(("saved_by", "resumed_by"), [(0, 0), (0, 2), (3, 1), (2, 3)])
def test_resuming_gives_the_same_remaining_batches(collection, saved_by, resumed_by):
    whole = list(islice(VideoLoader(collection, 5), 18))  # more than two epochs
    for step in (1, 8, 13):
        first = VideoLoader(collection, 5, num_workers=saved_by)
        for _ in islice(first, step):
            pass
        second = VideoLoader(collection, 5, num_workers=resumed_by)
        second.load_state_dict(first.state_dict())
        for batch, other in zip(whole[step:], second):
            assert_equal(batch, other)


def test_resuming_after_any_batch_on_any_rank(collection):
    for rank in (0, 1):
        whole = list(islice(VideoLoader(collection, 3, rank=rank, world_size=2), 14))
        for step, before in enumerate(whole[:-1], start=1):
            resumed = VideoLoader(collection, 3, rank=rank, world_size=2)
            resumed.load_state_dict(before["stream_state"])
            assert_equal(next(iter(resumed)), whole[step])


def test_the_position_is_plain_numbers_and_the_loader_goes_on_from_it(collection):
    loader = VideoLoader(collection, 5)
    first = next(iter(loader))
    assert all(type(value) is int for value in first["stream_state"].values())
    assert first["stream_state"] == loader.state_dict()
    second = next(iter(loader))
    both = clips_of(VideoLoader(collection, 5), 2)
    assert identity(first) + identity(second) == both


def test_a_position_elsewhere_is_refused(collection, world):
    state = VideoLoader(collection, 5, rank=1, world_size=2).state_dict()
    for loader, name in (
        (VideoLoader(collection, 5), "rank"),
        (VideoLoader(collection, 5, rank=1, world_size=3), "world_size"),
        (VideoLoader(collect(world), 5, rank=1, world_size=2), "seed"),
        (VideoLoader(collect(world, seed=7), 5, rank=1, world_size=2), "planned_clips"),
    ):
        with pytest.raises(ValueError, match=f"saved with {name}="):
            loader.load_state_dict(state)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_global_random_state_is_left_alone(collection, workers):
    before = torch.random.get_rng_state()
    for _ in islice(VideoLoader(collection, 5, num_workers=workers), 3):
        pass
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_clip_has_the_words_that_overlap_it(collection):
    words = {}
    for batch in VideoLoader(collection, 13, epochs=1):
        for clip, ids in zip(identity(batch), batch["text"]):
            words[clip] = bytes((ids[ids > 0] - 3).tolist()).decode()
    assert {start: text for (name, start), text in words.items() if name == "v9.mp4" and text} == {
        **{start: "first" for start in (0.0, 0.5, 1.0, 1.5)},
        **{start: "then" for start in (3.5, 4.0, 4.5)},
    }
    assert not any(text for (name, _), text in words.items() if name != "v9.mp4")


def test_a_tokenizer_can_be_plugged_in(collection):
    def tokenize(text, max_len):
        return torch.full((min(len(text), max_len),), 9)

    loader = VideoLoader(collection, 39, shuffle=False, tokenizer_fn=tokenize, max_text_length=3)
    text = next(iter(loader))["text"]
    assert text.shape == (39, 3) and set(text.unique().tolist()) == {0, 9}


@pytest.fixture(scope="module")
def spoken(tmp_path_factory, media):
    """Two clips with 301 bytes of words, the last of which is an ö, and one with 5."""
    folder = tmp_path_factory.mktemp("spoken")
    media.write_video(folder / "a.mp4", seconds=2.0)
    media.write_video(folder / "b.mp4", seconds=1.0)
    (folder / "a.srt").write_text("00:00:00,000 --> 00:00:02,000\n" + "w" * 299 + "ö\n")
    (folder / "b.srt").write_text("00:00:00,000 --> 00:00:02,000\nshort\n")
    return folder


def lengths(loader):
    return [row.ne(0).sum().item() for batch in loader for row in batch["text"]]


def test_text_has_the_length_that_the_config_allows(spoken):
    for keywords, expected in (
        ({}, 301),
        ({"config": OmniLatentConfig.tiny(max_text_length=100)}, 100),
        ({"config": OmniLatentConfig.tiny(max_text_length=100), "max_text_length": 120}, 120),
    ):
        collection = collect(spoken, clip_stride=1.0, **keywords)
        loader = VideoLoader(collection, 3, shuffle=False, epochs=1)
        assert lengths(loader) == [expected, expected, 5]
        assert loader.skips.total == (0 if expected == 301 else 2)


@pytest.mark.parametrize("limit", [5, 100, 299, 300])
def test_a_text_that_is_cut_is_counted_with_path_and_reason(spoken, limit, caplog):
    loader = VideoLoader(collect(spoken, clip_stride=1.0), 2, shuffle=False, epochs=1, max_text_length=limit)
    longest = 299 if limit == 300 else limit  # half an ö is none
    batches = list(loader)
    assert lengths(batches) == [longest, longest, 5]
    assert loader.skips.reasons == {f"text cut to {limit} tokens": 2} and loader.skips.clips == 0
    assert [(skip.path.rpartition("/")[2], skip.time) for skip in loader.skips.examples] == [
        ("a.mp4", 0.0),
        ("a.mp4", 1.0),
    ]
    assert [batch["skipped"] for batch in batches] == [2, 2]
    (record,) = caplog.records
    assert f"a.mp4 at 0.00 s: text cut to {limit} tokens" in record.getMessage()


def test_a_loader_may_have_a_seed_of_its_own(collection, long_videos):
    own = VideoLoader(collection, 39, seed=8)
    other = collect(long_videos, segment_duration=2.0, segments_per_task=2, seed=8)
    assert clips_of(own, 1) == clips_of(VideoLoader(other, 39), 1) != clips_of(VideoLoader(collection, 39), 1)
    assert own.state_dict()["seed"] == 8
    assert clips_of(build_dataloader(collection, 39, seed=8), 1) == clips_of(VideoLoader(other, 39), 1)


def test_batches_are_pinned_where_that_is_asked_for(collection, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self + 1 if self.dtype == torch.long else self)
    plain, pinned = (next(iter(VideoLoader(collection, 5, pin_memory=on)))["text"] for on in (False, True))
    assert torch.equal(pinned, plain + 1)


@pytest.fixture
def damaged(tmp_path, media):
    """Two good videos among broken ones."""
    good = media.write_video(tmp_path / "good.mp4", seconds=3.0)
    media.write_video(tmp_path / "silent.mkv", seconds=2.0, sound=False)
    media.write_video(tmp_path / "short.mp4", seconds=0.5)
    cut = media.write_video(tmp_path / "cut.mkv", seconds=4.0)
    cut.write_bytes(cut.read_bytes()[: int(0.6 * cut.stat().st_size)])
    (tmp_path / "zero.avi").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("I am no video\n" * 50)
    (tmp_path / "half.mp4").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    return tmp_path


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_files_are_skipped_with_a_count_and_a_reason(damaged, workers):
    collection = collect(damaged)
    reasons = {skip.path.rpartition("/")[2]: skip.reason for skip in collection.skips.examples}
    assert reasons.keys() == {"short.mp4", "zero.avi", "text.mp4", "half.mp4"}
    assert "shorter than a clip" in reasons["short.mp4"] and "InvalidDataError" in reasons["zero.avi"]
    loader = VideoLoader(collection, 4, epochs=1, num_workers=workers)
    batches = list(loader)
    names = [name for batch in batches for name, _ in identity(batch)]
    assert names.count("good.mp4") == 5 and names.count("silent.mkv") == 3 and 2 <= names.count("cut.mkv") < 7
    assert [skip.path.rpartition("/")[2] for skip in loader.skips.examples] == ["cut.mkv"]
    assert loader.skips.clips == 7 - names.count("cut.mkv")
    assert batches[-1]["skipped"] == 1
    flags = {(name, has.item()) for batch in batches for (name, _), has in zip(identity(batch), batch["has_audio"])}
    assert {("good.mp4", True), ("silent.mkv", False)} <= flags
    assert not {("good.mp4", False), ("silent.mkv", True)} & flags


def test_a_rotten_folder_is_an_error(damaged):
    with pytest.raises(TooManyBadClipsError, match=r"4 of 7 videos give no clip.*max_bad_fraction=0\.3"):
        collect(damaged, max_bad_fraction=0.3)


def test_a_rotten_run_is_an_error(tmp_path, media):
    for name in "abc":
        path = media.write_video(tmp_path / f"{name}.mkv", seconds=4.0)
        path.write_bytes(path.read_bytes()[: int(0.4 * path.stat().st_size)])
    collection = collect(tmp_path, max_bad_fraction=0.2)
    with pytest.raises(TooManyBadClipsError, match=r"of the last 21 planned clips.*max_bad_fraction=0\.2") as error:
        list(islice(VideoLoader(collection, 2), 50))
    assert "a.mkv at" in str(error.value) and "the picture ends" in str(error.value)


def test_files_that_vanish_during_the_run_are_an_error_and_no_endless_loop(tmp_path, media):
    path = media.write_video(tmp_path / "a.mp4", seconds=4.0)
    loader = VideoLoader(collect(tmp_path, max_bad_fraction=1.0), 3)
    stream = iter(loader)
    next(stream)
    path.unlink()
    with pytest.raises(NoUsableClipsError, match="FileNotFoundError"):
        list(islice(stream, 50))


def test_no_usable_clip_is_an_error_that_tells_why(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(NoUsableClipsError, match=r"None of 1 videos.*\n.*a\.mp4.*InvalidDataError"):
        collect(tmp_path, max_bad_fraction=1.0)


def test_what_there_is_to_learn_from_is_known_beforehand(tmp_path, media, collection):
    assert collection.modalities == ("text", "audio", "image", "video")
    media.write_video(tmp_path / "a.mp4", sound=False)
    assert collect(tmp_path).modalities == ("image", "video")


def test_measures_come_from_the_config(long_videos):
    spec = VideoCollection.from_folder(long_videos, OmniLatentConfig.tiny()).spec
    assert (spec.video_size, spec.image_size, spec.fps, spec.num_frames) == (16, 32, 8.0, 16)
    assert VideoCollection.from_folder(long_videos).spec.num_frames == 16


def test_workers_can_be_spawned(collection):
    loader = VideoLoader(collection, 5, num_workers=1, multiprocessing_context="spawn")
    assert_equal(next(iter(loader)), next(iter(VideoLoader(collection, 5))))
    assert "OMNILATENT_NO_REGISTRATION" not in os.environ


def test_spawned_workers_do_not_load_transformers(collection, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "curious_decoder.py").write_text(CURIOUS_DECODER)
    curious = importlib.import_module("curious_decoder").CuriousDecoder
    monkeypatch.setattr(collection, "decoder", lambda: curious(collection.spec))
    for workers, loaded in ((0, "True"), (1, "False")):
        loader = VideoLoader(collection, 5, num_workers=workers, multiprocessing_context="spawn")
        assert next(iter(loader))["path"] == [loaded] * 5


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"max_bad_fraction": 1.5}, "max_bad_fraction"),
        ({"segment_duration": 0}, "segment_duration"),
        ({"segments_per_task": 0}, "segments_per_task"),
        ({"clip_duration": -1}, "clip_duration"),
    ],
)
def test_settings_that_cannot_work_are_named(long_videos, keywords, message):
    with pytest.raises(ValueError, match=message):
        collect(long_videos, **keywords)


def test_loader_settings_that_cannot_work_are_named(collection):
    with pytest.raises(ValueError, match="batch_size"):
        VideoLoader(collection, 0)
    with pytest.raises(ValueError, match="rank"):
        VideoLoader(collection, 1, rank=2, world_size=2)


def test_build_dataloader_takes_a_folder_a_collection_or_a_dataset(collection, long_videos):
    assert isinstance(build_dataloader(collection, batch_size=2), VideoLoader)
    assert next(iter(build_dataloader(long_videos, batch_size=1)))["video"].shape == (1, 16, 3, 112, 112)
    items = [{"text": torch.tensor([5, 6])}, {"text": torch.tensor([7])}, {"text": torch.tensor([8])}]
    first = [batch["text"].tolist() for batch in build_dataloader(items, batch_size=2, seed=1)]
    again = [batch["text"].tolist() for batch in build_dataloader(items, batch_size=2, seed=1)]
    assert first == again and len(first) == 2
