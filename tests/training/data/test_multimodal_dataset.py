"""Samples of pictures and words: what is read, and how each kind of bad input is told."""

import io
import json
import logging
import zipfile

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageColumn
from PIL import Image

from omnilatent.training.data import (
    BadSampleError,
    CaptioningDataset,
    ImageTextDataset,
    MultiModalDataset,
    SchemaError,
    TooManyBadSamplesError,
    VQADataset,
    make_sample_data,
)

RED = Image.new("RGB", (7, 5), "red")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(4):
        Image.new("RGB", (7, 5), (60 * number, 0, 0)).save(tmp_path / f"images/{number}.png")
    return tmp_path


def write_lines(folder, *lines, name="data.jsonl"):
    path = folder / name
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def caption(number, words="a picture"):
    return {"image": f"images/{number}.png", "caption": words}


# ---- what is read


@pytest.mark.parametrize("kind", ["list", "pretty list", "lines"])
def test_json_is_a_list_or_one_object_a_line(folder, kind):
    records = [caption(number, f"picture {number}") for number in range(3)]
    if kind == "lines":
        path = write_lines(folder, *records, "", name="data.json")
    else:
        path = folder / "data.json"
        path.write_text(json.dumps(records, indent=2 if kind == "pretty list" else None))
    data = CaptioningDataset(path)
    assert [sample["captions"] for sample in data.samples] == [["picture 0"], ["picture 1"], ["picture 2"]]
    assert data[2]["image"].getpixel((0, 0)) == (120, 0, 0)
    assert data.bad.total == 0


def test_columns_are_mapped_by_name(folder):
    path = write_lines(folder, {"file": "images/1.png", "title": "one"})
    assert ImageTextDataset(path, columns={"image": "file", "caption": "title"})[0]["captions"] == ["one"]


def test_pictures_are_found_in_the_folder_that_is_named(folder, tmp_path_factory):
    elsewhere = write_lines(tmp_path_factory.mktemp("other"), {"image": "1.png", "caption": "one"})
    assert len(CaptioningDataset(elsewhere, image_folder=folder / "images")) == 1


def test_tables_of_datasets_give_the_same_samples_as_json(folder):
    records = [{"image": f"images/{n}.png", "text": f"text {n}", "label": ["cat", "dog"][n % 2]} for n in range(4)]
    from_json = MultiModalDataset(write_lines(folder, *records))
    features = Features({"image": ImageColumn(), "text": Value("string"), "label": ClassLabel(names=["cat", "dog"])})
    table = Dataset.from_list([{**r, "image": str(folder / r["image"])} for r in records], features=features)
    from_table = MultiModalDataset(table)
    for index in range(4):
        ours, theirs = from_json[index], from_table[index]
        assert np.array_equal(ours.pop("image"), theirs.pop("image"))
        assert ours == theirs
    assert from_json.known == from_table.known == ["cat", "dog"]


@pytest.mark.parametrize("form", ["picture", "bytes", "array", "dict", "grey array"])
def test_pictures_come_in_any_form(form):
    file = io.BytesIO()
    RED.save(file, "PNG")
    forms = {
        "picture": RED.convert("RGBA"),
        "bytes": file.getvalue(),
        "array": np.asarray(RED),
        "dict": {"path": None, "bytes": file.getvalue()},
        "grey array": np.full((5, 7), 255, np.uint8),
    }
    picture = CaptioningDataset([{"image": forms[form], "caption": "x"}])[0]["image"]
    assert picture.mode == "RGB" and picture.size == (7, 5) and picture.getpixel((3, 3))[0] == 255


def test_pictures_in_an_archive_are_read(tmp_path):
    Image.new("RGB", (6, 4), "red").save(tmp_path / "0.png")
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        archive.write(tmp_path / "0.png", "0.png")
    addresses = [f"zip://{name}::{tmp_path / 'pictures.zip'}" for name in ("0.png", "1.png")]
    data = CaptioningDataset([{"image": one, "caption": "a"} for one in addresses])
    assert len(data) == 1 and data[0]["image"].size == (6, 4) and data[0]["image"].getpixel((0, 0)) == (255, 0, 0)
    assert "1.png" in str(data.bad)


def test_decoded_pictures_are_upright_as_files_are(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # held sideways
    Image.new("RGB", (6, 4), "red").save(tmp_path / "0.png", exif=exif)
    forms = [str(tmp_path / "0.png"), Image.open(tmp_path / "0.png")]
    data = CaptioningDataset([{"image": form, "caption": "a"} for form in forms])
    assert [data[index]["image"].size for index in range(2)] == [(4, 6), (4, 6)]


def test_a_text_that_serves_as_caption_is_told_once(folder, caplog):
    path = write_lines(folder, {"image": "images/1.png", "text": "one"})
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert CaptioningDataset(path)[0]["captions"] == ["one"]
    assert caplog.messages == [
        f"{path} has no column 'caption': 'text' is read in its place. Name another by columns={{'caption': ...}}."
    ]


def test_columns_that_are_meant_are_not_told(folder, caplog):
    with caplog.at_level(logging.WARNING):
        CaptioningDataset(write_lines(folder, {"image": "images/1.png", "captions": ["one"], "text": "two"}))
        CaptioningDataset(write_lines(folder, {"image": "images/1.png", "text": "one"}), columns={"caption": "text"})
        MultiModalDataset(write_lines(folder, {"image": "images/1.png", "text": "one", "label": "a"}))
    assert caplog.messages == []


def test_equal_captions_and_equal_pictures_have_equal_ids(folder):
    ids = [
        s["sample_id"]
        for s in ImageTextDataset(write_lines(folder, caption(0, "a"), caption(1, "b"), caption(2, "a"))).samples
    ]
    assert ids[0] == ids[2] != ids[1]
    ids = [
        s["sample_id"]
        for s in ImageTextDataset(write_lines(folder, caption(0, "a"), caption(1, "b"), caption(0, "c"))).samples
    ]
    assert ids[0] == ids[2] != ids[1]


def test_answers_are_numbered_by_frequency(folder):
    said = ["red", ["blue", "blue", "red"], [{"answer": "blue", "answer_id": 1}], "green"]
    records = [{"image": f"images/{n}.png", "question": "?", "answers": answer} for n, answer in enumerate(said)]
    data = VQADataset(write_lines(folder, *records))
    assert data.known == ["blue", "red", "green"]
    assert data[1]["answers"] == ["blue", "blue", "red"]


def test_several_labels_stay_several(folder):
    data = MultiModalDataset(write_lines(folder, {"image": "images/0.png", "text": "t", "label": ["a", "b"]}))
    assert data[0]["label"] == ["a", "b"] and data.known == ["a", "b"]


def test_one_file_of_sample_data_serves_every_task(tmp_path):
    path = make_sample_data(tmp_path, num_train=8, num_val=2, size=16)["train"]
    for kind in (MultiModalDataset, ImageTextDataset, VQADataset, CaptioningDataset):
        assert len(kind(path)) == 8 and not kind(path).bad.total


# ---- streams


def stream_of(records):
    return (
        Dataset.from_list([{**r, "image": {"path": None, "bytes": r["image"]}} for r in records])
        .cast_column("image", ImageColumn())
        .to_iterable_dataset()
    )


def encoded(picture):
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def test_streams_leave_out_and_count_what_is_bad(caplog):
    good = encoded(RED)
    records = [{"image": good, "caption": "a"}, {"image": good[:-30], "caption": "b"}, {"image": good, "caption": " "}]
    stream = CaptioningDataset.stream(stream_of([*records, {"image": good, "caption": "d"}]))
    with caplog.at_level(logging.WARNING):
        assert [sample["captions"] for sample in stream] == [["a"], ["d"]]
    assert stream.bad.total == 2 and [bad.line for bad in stream.bad.examples] == ["row 1", "row 2"]
    assert "the caption is empty: ' '" in caplog.text


def test_a_stream_goes_on_where_it_stood():
    make = lambda: CaptioningDataset.stream(stream_of([{"image": encoded(RED), "caption": c} for c in "abcde"]))  # noqa: E731
    stream = make()
    read = iter(stream)
    assert [next(read)["captions"][0] for _ in range(2)] == ["a", "b"]
    state = stream.state_dict()
    other = make()
    other.load_state_dict(state)
    assert [sample["captions"][0] for sample in other] == ["c", "d", "e"]


def test_a_stream_without_the_column_stops_at_once():
    with pytest.raises(SchemaError, match="no column 'question': it has 'caption', 'image'"):
        VQADataset.stream(stream_of([{"image": encoded(RED), "caption": "a"}]))


def test_a_stream_is_not_read_as_a_table():
    with pytest.raises(TypeError, match="CaptioningDataset.stream"):
        CaptioningDataset(stream_of([{"image": encoded(RED), "caption": "a"}]))


# ---- bad samples: left out, counted, and told with file, line and value


def only_bad(data):
    assert data.bad.total == 1
    return str(data.bad.examples[0])


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ({"image": "images/9.png", "caption": "x"}, "the picture images/9.png is missing"),
        ({"image": "", "caption": "x"}, "expected a picture, got ''"),
        ({"image": 3, "caption": "x"}, "expected a picture, got 3"),
        (caption(1, ""), "the caption is empty: ''"),
        (caption(1, " \n"), r"the caption is empty: ' \n'"),
        (caption(1, 5), "the caption is no text: 5"),
        (caption(1, None), "the caption is no text: None"),
        ({"image": "images/1.png"}, "no 'caption' in {'image': 'images/1.png'}"),
        ('{"image": "images/1.png", "caption": ', "no JSON"),
        ("[1, 2]", "expected an object, got [1, 2]"),
    ],
)
def test_a_bad_line_is_left_out_and_told(folder, bad, told):
    path = write_lines(folder, caption(0), "", bad, caption(2))
    data = CaptioningDataset(path)
    assert len(data) == 2
    message = only_bad(data)
    assert message.startswith(f"{path}, line 3: ") and told in message


def test_lines_are_counted_in_lists_as_well(folder):
    (folder / "data.json").write_text(json.dumps([caption(0), caption(9), caption(1)], indent=1))
    assert only_bad(CaptioningDataset(folder / "data.json")).startswith(
        f"{folder / 'data.json'}, line 6, entry 1: the picture"
    )


def test_what_is_left_out_is_logged_once(folder, caplog):
    path = write_lines(folder, caption(0), caption(7), caption(1))
    with caplog.at_level(logging.WARNING):
        CaptioningDataset(path)
    assert len(caplog.records) == 1
    assert f"Left out 1 of 3 samples of {path}" in caplog.text and "line 2" in caplog.text


@pytest.mark.parametrize("damage", ["cut", "no picture"])
def test_a_picture_that_cannot_be_decoded_is_left_out(folder, damage):
    file = folder / "images/1.png"
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(file)
    file.write_bytes(file.read_bytes()[:2000] if damage == "cut" else b"not a picture")
    path = write_lines(folder, caption(0), caption(1))
    message = only_bad(CaptioningDataset(path))
    assert "line 2: Cannot decode" in message and "1.png" in message
    unchecked = CaptioningDataset(path, check_pictures=False)
    assert len(unchecked) == 2
    with pytest.raises(BadSampleError, match="data.jsonl, line 2: Cannot decode"):
        unchecked[1]


def test_unknown_answers_are_left_out_or_kept_to_count_as_wrong(folder):
    records = [{"image": "images/0.png", "question": "?", "answer": answer} for answer in ("yes", "maybe")]
    path = write_lines(folder, *records)
    data = VQADataset(path, known=["yes", "no"])
    assert only_bad(data) == f"{path}, line 2: unknown answer 'maybe': it is none of the 2 known"
    assert len(VQADataset(path, known=["yes", "no"], unknown="keep")) == 2


def test_an_answer_that_some_people_gave_suffices(folder):
    record = {"image": "images/0.png", "question": "?", "answers": ["maybe", "yes"]}
    assert len(VQADataset(write_lines(folder, record), known=["yes"])) == 1


def test_unknown_labels_are_left_out(folder):
    records = [{"image": "images/0.png", "text": "t", "label": label} for label in ("cat", "cow", ["cat", "cow"])]
    data = MultiModalDataset(write_lines(folder, *records), known=["cat"], max_bad_fraction=0.9)
    assert data.bad.total == 2 and "unknown label 'cow'" in str(data.bad)


def test_too_many_bad_samples_end_the_run(folder):
    path = write_lines(folder, caption(0), caption(7), caption(8))
    with pytest.raises(
        TooManyBadSamplesError, match="2 of 3 samples could not be read, more than max_bad_fraction=0.5"
    ):
        CaptioningDataset(path)
    assert len(CaptioningDataset(path, max_bad_fraction=0.7)) == 1
    with pytest.raises(TooManyBadSamplesError, match="None of 2 samples"):
        CaptioningDataset(write_lines(folder, caption(7), caption(8)), max_bad_fraction=1.0)


# ---- a bad schema stops at once


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[{"image": "a", "caption": "b"},\n{"image": }]', "line 2: the list is broken"),
        ('[{"image": "a"}\n{"image": "b"}]', "line 2: the list is broken, expected ',' or ']', got '{'"),
        ('[{"image": "a"}', "the list is broken, expected ',' or ']', got ''"),
        ("[{}] more", "text after the end of the list: more"),
        ("", "has no record"),
        ("[]", "has no record"),
        ("5", "expected an object, got 5"),
    ],
)
def test_broken_files_are_refused_with_their_line(folder, text, told):
    (folder / "data.json").write_text(text)
    with pytest.raises(SchemaError) as refused:
        CaptioningDataset(folder / "data.json")
    assert str(folder / "data.json") in str(refused.value) and told in str(refused.value)


def test_a_column_that_is_nowhere_is_named_beside_those_there_are(folder):
    with pytest.raises(SchemaError, match="data.jsonl has no column 'question': it has 'caption', 'image'"):
        VQADataset(write_lines(folder, caption(0)))
    with pytest.raises(SchemaError, match="no column 'title'"):
        CaptioningDataset(write_lines(folder, caption(0)), columns={"caption": "title"})
    with pytest.raises(SchemaError, match="Nothing reads a column for 'captoin': expected 'image', 'caption'"):
        CaptioningDataset(write_lines(folder, caption(0)), columns={"captoin": "title"})


def test_other_sources_are_refused():
    with pytest.raises(TypeError, match="got int"):
        CaptioningDataset(3)
    with pytest.raises(FileNotFoundError, match="nowhere.json"):
        CaptioningDataset("nowhere.json")
    with pytest.raises(ValueError, match="`unknown` is 'drop'"):
        VQADataset([{"image": RED, "question": "?", "answer": "x"}], unknown="drop")
