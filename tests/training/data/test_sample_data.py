"""Drawn sample data: what is in it, that it is the same each time, and that nothing held out is shown in training."""

import json
from collections import Counter
from random import Random

import numpy as np
import pytest
from PIL import Image

from omnilatent.training import cli
from omnilatent.training.data import make_sample_data, sample_records
from omnilatent.training.data.drawn_scenes import (
    COLOURS,
    CountScene,
    DigitScene,
    PairScene,
    Thing,
    all_scenes,
)
from omnilatent.training.data.sample_data import choose_scenes, describe_scene
from omnilatent.training.data.scene_drawing import Canvas

NUM_TRAIN = 4000


@pytest.fixture(scope="module")
def words():
    """The words of the usual sizes, without drawing."""
    return {
        split: [describe_scene(scene, Random(f"0 {n}")) for n, scene in enumerate(choose_scenes(split, count, 0))]
        for split, count in (("train", NUM_TRAIN), ("val", 350))
    }


def test_there_are_enough_captions_and_no_answer_is_too_common(words):
    assert len({record["caption"] for record in words["train"]}) >= 200
    assert len({record["caption"] for record in words["val"]}) >= 100
    for split in words:
        for column in ("answer", "label"):
            counts = Counter(record[column] for record in words[split])
            assert max(counts.values()) <= 0.35 * len(words[split]), (split, column)


def test_what_is_held_out_is_never_shown_in_training(words):
    held_out = {scene.caption for scene in all_scenes() if scene.held_out}
    assert {record["caption"] for record in words["val"]} == held_out
    assert not held_out & {record["caption"] for record in words["train"]}


def test_every_answer_label_and_word_of_validation_is_in_training(words):
    for column in ("answer", "label"):
        assert {r[column] for r in words["val"]} <= {r[column] for r in words["train"]}
    for column in ("caption", "question", "text"):
        known = {word for record in words["train"] for word in record[column].split()}
        assert {word for record in words["val"] for word in record[column].split()} <= known


def test_things_held_out_together_are_held_out_in_either_order():
    for scene in all_scenes():
        if isinstance(scene, PairScene):
            assert PairScene(scene.second, scene.first, scene.relation).held_out == scene.held_out


def test_captions_are_all_different():
    captions = [scene.caption for scene in all_scenes()]
    assert len(captions) == len(set(captions)) == 876


RED_ABOVE_BLUE = PairScene(Thing("red", "cross"), Thing("blue", "circle"), "above")


@pytest.mark.parametrize(
    ("scene", "question", "answer"),
    [
        (RED_ABOVE_BLUE, "what shape is blue?", "circle"),
        (RED_ABOVE_BLUE, "what colour is the cross?", "red"),
        (RED_ABOVE_BLUE, "where is the circle?", "bottom"),
        (RED_ABOVE_BLUE, "what colour is at the top?", "red"),
        (
            PairScene(Thing("red", "cross"), Thing("blue", "circle"), "left of"),
            "what shape is at the right?",
            "circle",
        ),
        (CountScene(3, Thing("white", "square")), "how many things are there?", "three"),
        (CountScene(1, Thing("white", "square")), "what colour is it?", "white"),
        (DigitScene(7, "green"), "which digit is it?", "7"),
    ],
)
def test_questions_have_their_right_answers(scene, question, answer):
    assert dict(scene.questions())[question] == answer


def test_the_label_is_the_word_that_the_text_leaves_out(words):
    for records in words.values():
        for record in records:
            assert record["text"].count("___") == 1
            assert record["text"].replace("___", record["label"]) == record["caption"]


@pytest.mark.parametrize("scene", [RED_ABOVE_BLUE, CountScene(2, Thing("red", "cross")), DigitScene(7, "green")])
def test_every_blank_is_a_word_of_the_caption(scene):
    assert all(scene.caption.split().count(blank) == 1 for blank in scene.blanks)


def pixels_of(scene, colour, seed=0):
    """Where a drawn scene has a colour, (n, 2) rows and columns."""
    canvas = Canvas(64, Random(seed))
    scene.draw(canvas, Random(seed))
    picture = np.asarray(canvas.picture()).astype(int)
    return np.argwhere(np.abs(picture - COLOURS[colour]).sum(-1) < 30)


@pytest.mark.parametrize("seed", range(5))
def test_pictures_show_the_relation_they_are_called_by(seed):
    for relation, axis in (("left of", 1), ("above", 0)):
        scene = PairScene(Thing("red", "cross"), Thing("blue", "circle"), relation)
        first, second = (pixels_of(scene, colour, seed) for colour in ("red", "blue"))
        assert len(first) > 30 and len(second) > 30
        assert first[:, axis].max() < second[:, axis].min()


def test_several_things_cover_several_times_as_much():
    one, four = (len(pixels_of(CountScene(n, Thing("white", "square")), "white")) for n in (1, 4))
    assert 3 * one < four < 5 * one


def test_digits_look_different():
    shapes = [{tuple(p) for p in pixels_of(DigitScene(d, "white"), "white").tolist()} for d in range(10)]
    for first in range(10):
        for second in range(first):
            both, either = shapes[first] & shapes[second], shapes[first] | shapes[second]
            assert len(both) < 0.92 * len(either)


def test_the_same_seed_writes_the_same_files(tmp_path):
    for folder in ("a", "b"):
        make_sample_data(tmp_path / folder, num_train=12, num_val=6, size=32)
    make_sample_data(tmp_path / "c", num_train=12, num_val=6, size=32, seed=1)
    files = {
        folder: {
            p.relative_to(tmp_path / folder): p.read_bytes() for p in (tmp_path / folder).rglob("*") if p.is_file()
        }
        for folder in "abc"
    }
    assert files["a"] == files["b"] and len(files["a"]) == 20
    assert all(files["a"][name] != files["c"][name] for name in files["a"])


def test_the_command_writes_lists_of_records(tmp_path, capsys):
    assert cli.main(["sample-data", "--out", str(tmp_path / "s"), "--train", "9", "--val", "4", "--size", "48"]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "s/train.json"), str(tmp_path / "s/val.json")]
    records = json.loads((tmp_path / "s/train.json").read_text())
    assert len(records) == 9
    assert Image.open(tmp_path / "s" / records[8]["image"]).size == (48, 48)


def test_another_split_is_refused():
    with pytest.raises(ValueError, match="'test': expected one of 'train', 'val'"):
        next(sample_records("test", 3))
