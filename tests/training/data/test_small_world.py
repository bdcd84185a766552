import re

import numpy as np
import pytest

from omnilatent.training.data import (
    ClipSpec,
    VideoLoader,
    decode_clips,
    make_small_world,
    scan_folder,
    synthetic_collection,
)
from omnilatent.training.data.small_world_scene import COLOURS, DIRECTIONS, SHAPES, SIZES, draw_scene, held_out

CAPTION = re.compile(r"(\w+) (\w+) (\w+), (day|night), at (\d),(\d) ([a-z-]+), hits ((?:\d\.\d ?)+)")


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene(np.random.default_rng((5, number)), "train", 2.0) for number in range(300)]


def test_the_same_seed_writes_the_same_files(tmp_path, world):
    make_small_world(tmp_path / "again", 11, seed=3)
    make_small_world(tmp_path / "other", 11, seed=4)
    for path in sorted(world.iterdir()):
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    name = "train-000000.mp4"
    assert (tmp_path / "other" / name).read_bytes() != (world / name).read_bytes()


def test_a_world_is_finished_not_written_again(tmp_path):
    first, second = make_small_world(tmp_path, 2, seed=1)
    before = first.stat().st_mtime_ns
    second.unlink()
    make_small_world(tmp_path, 2, seed=1)
    assert second.exists() and first.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="another small world"):
        make_small_world(tmp_path, 3, seed=1)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else"):
        make_small_world(tmp_path, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"split": "test"}, "train, validation"), ({"num_videos": 0}, "num_videos"), ({"pixels": 33}, "even")],
)
def test_arguments_that_cannot_work_are_named(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_small_world(tmp_path, **{"num_videos": 1, **arguments})


def test_the_caption_tells_the_scene(scenes):
    for scene in scenes:
        size, colour, shape, day, x, y, direction, hits = CAPTION.fullmatch(scene.caption()).groups()
        assert (size, colour, shape, day) == (scene.size, scene.colour, scene.shape, scene.time_of_day)
        assert direction in DIRECTIONS
        assert int(x) <= 10 * scene.place[0] < int(x) + 1 and int(y) <= 10 * scene.place[1] < int(y) + 1
        assert np.allclose([float(hit) for hit in hits.split()], scene.hits(), atol=0.0501)
        assert len(scene.caption()) <= 64


def test_the_shape_turns_exactly_at_the_hits(scenes):
    for scene in scenes:
        times = np.linspace(0, 2, 20001)
        places = scene.places(times)
        assert places.min() >= scene.radius - 1e-9 and places.max() <= 1 - scene.radius + 1e-9
        turns = times[1:-1][(np.abs(np.diff(places, n=2, axis=0)) > 1e-6).any(axis=1)]
        for hit in scene.hits():
            assert np.abs(turns - hit).min() < 3e-4
        assert all(np.abs(scene.hits() - turn).min() < 3e-4 for turn in turns)


def test_what_the_frame_shows_is_where_the_shape_is(scenes):
    for scene in scenes[:20]:
        frame = scene.frames(8, 112)[8].astype(float)  # the middle, t = 1 s
        weight = np.abs(frame - np.median(frame.reshape(-1, 3), axis=0)).sum(axis=2)
        weight[weight < 0.8 * weight.max()] = 0  # the shape without its trail
        rows, columns = np.indices(weight.shape)
        place = [(weight * columns).sum() / weight.sum(), (weight * rows).sum() / weight.sum()]
        assert np.abs((np.array(place) + 0.5) / 112 - scene.place).max() < 0.05


def test_notes_sound_at_the_hits(scenes):
    for scene in scenes[:30]:
        loud = np.abs(scene.sound(16000)).reshape(-1, 160).max(axis=1)  # in steps of 10 ms
        rises = np.flatnonzero(np.diff(loud) > 0.1) * 0.01
        for hit in scene.hits():
            assert np.abs(rises - hit).min() < 0.03
        assert all(np.abs(scene.hits() - rise).min() < 0.03 for rise in rises)


def test_every_soundtrack_is_its_own(scenes):
    assert len({tuple(np.round(scene.hits(), 3)) for scene in scenes}) == len(scenes)


def test_validation_has_other_combinations_of_the_same_parts(scenes):
    others = [draw_scene(np.random.default_rng((6, number)), "validation", 2.0) for number in range(200)]
    seen = {(scene.colour, scene.shape) for scene in scenes}
    new = {(scene.colour, scene.shape) for scene in others}
    assert seen.isdisjoint(new)
    assert {c for c, _ in seen} == {c for c, _ in new} == set(COLOURS)
    assert {s for _, s in seen} == {s for _, s in new} == set(SHAPES)
    assert {scene.size for scene in others} == set(SIZES)
    assert len(seen) + len(new) == len(COLOURS) * len(SHAPES) == 36
    assert all(held_out(*pair) for pair in new)


def test_the_files_hold_what_was_drawn(world):
    found, _ = scan_folder(world)
    for number, video in enumerate(found[:4]):
        scene = draw_scene(np.random.default_rng((3, 0, number)), "train", 2.0)
        (clip,) = decode_clips(video.path, [0.0], ClipSpec()).clips
        drawn = scene.frames(8, 112).transpose(0, 3, 1, 2)
        assert np.abs(clip["video"].astype(int) - drawn).mean() < 3
        assert np.abs(clip["audio"] / 32768 - scene.sound(16000)).mean() < 3e-3


def test_scenes_follow_each_other_in_a_longer_file(tmp_path):
    (path,) = make_small_world(tmp_path, 1, scenes_per_video=3)
    rng = np.random.default_rng((0, 0, 0))
    scenes = [draw_scene(rng, "train", 2.0) for _ in range(3)]
    assert [line for line in path.with_suffix(".srt").read_text().split("\n") if "hits" in line] == [
        scene.caption() for scene in scenes
    ]
    clips = decode_clips(str(path), [0.0, 2.0, 4.0], ClipSpec()).clips
    for clip, scene in zip(clips, scenes):
        drawn = scene.frames(8, 112).transpose(0, 3, 1, 2)
        assert np.abs(clip["video"].astype(int) - drawn).mean() < 3
        assert clip["has_audio"]


def test_a_synthetic_collection_has_one_clip_with_words_and_sound_per_scene(tmp_path):
    collection = synthetic_collection(tmp_path / "world", 6, seed=2, split="validation", num_workers=2)
    assert collection.num_clips == 6 and collection.skips.total == 0
    batch = next(iter(VideoLoader(collection, 6)))
    assert batch["has_text"].all() and batch["has_audio"].all()
