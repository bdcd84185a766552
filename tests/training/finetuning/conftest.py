"""A small folder of images with labels."""

import random

import pytest
from PIL import Image, ImageDraw


def draw_images(folder, count, shapes=("circle", "square"), seed=0):
    """Yellow circles and blue squares on dark ground, `count` of each in a folder of its own."""
    generator = random.Random(seed)
    for shape in shapes:
        (folder / shape).mkdir(parents=True)
        for number in range(count):
            picture = Image.new("RGB", (32, 37), (generator.randrange(60),) * 3)
            draw = ImageDraw.Draw(picture)
            x, y = generator.randrange(3, 17), generator.randrange(3, 17)
            how = draw.ellipse if shape == "circle" else draw.rectangle
            bright = generator.randrange(180, 256)
            how((x, y, x + 13, y + 13), fill=(bright, bright, 0) if shape == "circle" else (0, bright, bright))
            picture.save(folder / shape / f"{number}.png")


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """train: 23 of each of two shapes, of which two files are broken; val: 7 of each, one broken."""
    folder = tmp_path_factory.mktemp("images")
    draw_images(folder / "train", 23, seed=1)
    draw_images(folder / "val", 7, seed=2)
    (folder / "train" / "circle" / "3.png").write_text("no picture")
    whole = (folder / "train" / "square" / "5.png").read_bytes()
    (folder / "train" / "square" / "5.png").write_bytes(whole[: len(whole) // 2])
    (folder / "val" / "square" / "6.png").write_bytes(b"")
    return folder


@pytest.fixture(autouse=True)
def cache_of_datasets(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.getbasetemp() / "datasets"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_OFFLINE", True)
