"""Images with labels: tables, broken files, augmentation, batches."""

from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers import ViTImageProcessor

from omnilatent.training.data import TooManyBadSamplesError
from omnilatent.training.finetuning import (
    EvaluationTransform,
    ImageCollator,
    LabelledImages,
    LabelledImageStream,
    TrainingTransform,
    open_image_tables,
)

PROCESSOR = ViTImageProcessor(size={"height": 16, "width": 24})
EVALUATE = EvaluationTransform(PROCESSOR)


def open_saved(tmp_path, columns, features=None, **settings):
    """The two tables of a dataset on disk."""
    rows = datasets.Dataset.from_dict(columns, features=datasets.Features(features) if features else None)
    datasets.DatasetDict({"train": rows}).save_to_disk(str(tmp_path / "saved"))
    return open_image_tables(str(tmp_path / "saved"), **settings)


def pictures(count):
    return [Image.new("RGB", (8, 8), (10 * number, 0, 0)) for number in range(count)]


# ---- tables


def test_folder_tells_classes_and_its_split_to_judge_by(image_folder):
    train, val = open_image_tables("imagefolder", data_dir=image_folder)
    assert train.classes == val.classes == ["circle", "square"]
    assert (len(train.rows), len(val.rows)) == (46, 14)
    assert train.title == "imagefolder train" and val.title == "imagefolder validation"


def test_folder_may_be_below_the_home(image_folder, monkeypatch):
    monkeypatch.setenv("HOME", str(image_folder.parent))
    train, _ = open_image_tables("imagefolder", data_dir=f"~/{image_folder.name}")
    assert len(train.rows) == 46


def test_an_address_is_no_folder():
    with pytest.raises(FileNotFoundError, match="There is no folder 'hf://datasets/someone/images'"):
        open_image_tables("imagefolder", data_dir="hf://datasets/someone/images")


def test_each_class_gives_its_share_to_judge_by(tmp_path):
    labels = ["a"] * 20 + ["b"] * 10 + ["c"]
    train, val = open_saved(
        tmp_path, {"image": pictures(31), "name": labels}, {"image": datasets.Image(), "name": datasets.Value("string")},
        label_column="name", held_out=0.2,
    )  # fmt: skip
    assert train.classes == val.classes == ["a", "b", "c"]
    assert sorted(val.rows["name"]) == ["a"] * 4 + ["b"] * 2
    assert sorted([*train.rows["name"], *val.rows["name"]]) == labels
    again = open_image_tables(str(tmp_path / "saved"), label_column="name", held_out=0.2)
    assert again[1].rows["image"] == val.rows["image"]


def test_labels_may_be_numbers_words_or_class_labels(tmp_path):
    columns = {"image": pictures(12), "label": [10, 2, 33] * 4}
    train, _ = open_saved(tmp_path, columns, {"image": datasets.Image(), "label": datasets.Value("int64")}, held_out=0)
    assert train.classes == ["2", "10", "33"]
    assert [LabelledImages(train, EVALUATE)[row]["labels"] for row in range(3)] == [1, 0, 2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_split": "training"}, "no split 'training': it has train"),
        ({"val_split": "judge", "label_column": "what"}, "no split 'judge'"),
        ({"label_column": "kind"}, "no column 'kind'.*image, what.*--label-column"),
        ({"image_column": "photo"}, "no column 'photo'"),
        ({}, "no column of a label"),
        ({"label_column": "what", "streaming": True}, "no streaming"),
    ],
)
def test_what_is_not_there_is_named(tmp_path, settings, message):
    columns = {"image": pictures(4), "what": ["a", "b", "a", "b"]}
    with pytest.raises(ValueError, match=message):
        open_saved(
            tmp_path, columns, {"image": datasets.Image(), "what": datasets.Value("string")}, **settings
        )  # fmt: skip


def test_one_class_is_no_task(tmp_path):
    columns = {"image": pictures(4), "label": ["a"] * 4}
    with pytest.raises(ValueError, match="1 classes"):
        open_saved(tmp_path, columns, {"image": datasets.Image(), "label": datasets.Value("string")})


# ---- broken images


def test_next_good_image_stands_for_a_broken_one(image_folder):
    train, _ = open_image_tables("imagefolder", data_dir=image_folder)
    images = LabelledImages(train, EVALUATE)
    paths = [row["path"] for row in train.rows["image"]]
    broken = paths.index(str(image_folder / "train" / "circle" / "3.png"))
    sample, following = images[broken], images[broken + 1]
    assert [(one.file, one.line) for one in sample["bad"]] == [(paths[broken], f"row {broken}")]
    torch.testing.assert_close(sample["pixel_values"], following["pixel_values"], rtol=0, atol=0)
    assert following["bad"] == []


def test_images_to_judge_by_are_without_broken_ones(image_folder):
    _, val = open_image_tables("imagefolder", data_dir=image_folder)
    images, bad = LabelledImages(val, EVALUATE).without_broken()
    assert len(images) == 13 and bad.total == 1
    assert bad.examples[0].file == str(image_folder / "val" / "square" / "6.png")
    assert sum(images[row]["labels"] for row in range(13)) == 6


def test_unlabelled_rows_are_left_out_like_broken_ones(tmp_path):
    label = datasets.ClassLabel(names=["a", "b"])
    train, _ = open_saved(
        tmp_path, {"image": pictures(4), "label": [0, -1, 1, None]}, {"image": datasets.Image(), "label": label}, held_out=0
    )  # fmt: skip
    images, bad = LabelledImages(train, EVALUATE).without_broken()
    assert [images[row]["labels"] for row in range(2)] == [0, 1]
    assert [one.reason for one in bad.examples] == [
        "unknown label -1: expected one of 2",
        "unknown label None: expected one of 2",
    ]


def test_nothing_but_broken_images_is_an_error(tmp_path):
    columns = {"image": [{"bytes": b"no picture", "path": None}] * 3, "label": [0, 1, 0]}
    label = datasets.ClassLabel(names=["a", "b"])
    train, _ = open_saved(tmp_path, columns, {"image": datasets.Image(), "label": label}, held_out=0)
    with pytest.raises(TooManyBadSamplesError, match="None of the 3"):
        LabelledImages(train, EVALUATE)[1]
    with pytest.raises(TooManyBadSamplesError):
        LabelledImages(train, EVALUATE).without_broken()


# ---- streams


def stream_of(image_folder, seed=None, **settings):
    train, val = open_image_tables("imagefolder", data_dir=image_folder, streaming=True)
    return LabelledImageStream(train if seed is not None else val, EVALUATE, seed, **settings)


def test_stream_to_judge_by_ends_and_tells_all_broken_images(image_folder):
    samples = list(stream_of(image_folder))
    assert len(samples) == 13 and sum(sample["labels"] for sample in samples) == 6
    assert [Path(bad.file).name for sample in samples for bad in sample["bad"]] == ["6.png"]


def test_stream_to_learn_from_goes_round_in_another_order(image_folder):
    samples = iter(stream_of(image_folder, seed=3, buffer_size=20))
    rounds = [[next(samples) for _ in range(44)] for _ in range(2)]
    pixels = [torch.stack([sample["pixel_values"] for sample in one]).flatten(1) for one in rounds]
    assert not torch.equal(*pixels)
    # the same images, each once
    torch.testing.assert_close(*(one.double().sum(1).sort().values for one in pixels), rtol=0, atol=0)
    assert sum(sample["labels"] for sample in rounds[0]) == 22
    assert all(sum(len(sample["bad"]) for sample in one) == 2 for one in rounds)


def test_stream_is_the_same_each_time(image_folder):
    first, second = (stream_of(image_folder, seed=3) for _ in range(2))
    for _, one, other in zip(range(60), first, second):
        assert one["seed"] == other["seed"] and torch.equal(one["pixel_values"], other["pixel_values"])


def test_workers_without_a_shard_end(image_folder):
    loader = DataLoader(stream_of(image_folder), batch_size=5, num_workers=2, collate_fn=ImageCollator(2))
    assert sum(len(batch["labels"]) for batch in loader) == 13


# ---- augmentation and batches


@pytest.fixture(scope="module")
def picture():
    return Image.radial_gradient("L").resize((50, 40)).convert("RGB")


def test_evaluation_sees_what_a_pipeline_sees(picture):
    expected = PROCESSOR(picture, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(EVALUATE(picture), expected, rtol=0, atol=0)


def test_without_anything_random_training_sees_nearly_the_same(picture):
    transform = TrainingTransform(PROCESSOR, min_crop=1.0, flip=False)
    # both resize by bilinear filters, one on the picture and the other on its tensor
    torch.testing.assert_close(transform(picture), EVALUATE(picture), rtol=0, atol=0.03)


def test_augmentation_is_drawn_from_the_sample_and_the_epoch(image_folder):
    train, _ = open_image_tables("imagefolder", data_dir=image_folder)
    images = LabelledImages(train, TrainingTransform(PROCESSOR, randaugment=9), seed=5)
    torch.manual_seed(0)
    first = images[7]["pixel_values"]
    drawn = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(3), drawn)  # nothing was taken from the generator of all
    assert torch.equal(images[7]["pixel_values"], first)
    images.set_epoch(1)
    assert not torch.equal(images[7]["pixel_values"], first)


@pytest.mark.parametrize("settings", [{"min_crop": 0.0}, {"min_crop": 1.5}, {"randaugment": 31}])
def test_impossible_augmentation_is_refused(settings):
    with pytest.raises(ValueError, match="min_crop"):
        TrainingTransform(PROCESSOR, **settings)


def batch(training):
    generator = torch.Generator().manual_seed(0)
    return [
        {"pixel_values": torch.rand(3, 8, 8, generator=generator), "labels": number % 5, "bad": [f"bad {number}"]}
        | ({"seed": 11 * number} if training else {})
        for number in range(7)
    ]


@pytest.mark.parametrize("settings", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_labels_are_mixed_as_the_pictures_are(settings):
    samples = batch(training=True)
    mixed = ImageCollator(5, **settings)(samples)
    assert mixed["labels"].shape == (7, 5) and mixed["bad"] == [f"bad {number}" for number in range(7)]
    torch.testing.assert_close(mixed["labels"].sum(1), torch.ones(7))
    before = torch.stack([sample["pixel_values"] for sample in samples])
    own = mixed["labels"].gather(1, torch.tensor([[number % 5] for number in range(7)])).squeeze(1)
    if "mixup" in settings and "cutmix" not in settings:
        share = own[1]
        torch.testing.assert_close(mixed["pixel_values"], share * before + (1 - share) * before.roll(1, 0))
    if "cutmix" in settings and "mixup" not in settings:
        kept = (mixed["pixel_values"] == before).all(1).flatten(1).float().mean(1)
        torch.testing.assert_close(own[1:], kept[1:])
    assert torch.equal(ImageCollator(5, **settings)(samples)["pixel_values"], mixed["pixel_values"])


def test_images_to_judge_by_are_not_mixed():
    together = ImageCollator(5, mixup=1.0, cutmix=1.0)(batch(training=False))
    assert together["labels"].tolist() == [0, 1, 2, 3, 4, 0, 1]
