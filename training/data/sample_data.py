"""Writes sample data: drawn pictures with captions, questions with answers, and captions with a word to fill in."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

from PIL import Image

from .drawn_scenes import Scene, all_scenes
from .scene_drawing import Canvas

KIND_SHARES = {"pair": 0.6, "count": 0.2, "digit": 0.2}
SPLITS = ("train", "val")
BLANK = "___"


def make_sample_data(
    folder: str | os.PathLike, num_train: int = 4000, num_val: int = 350, size: int = 96, seed: int = 0
) -> dict[str, Path]:
    """
    Draw pictures of coloured shapes, their numbers and places, and digits, and write `train.json` and `val.json`.

    Both are lists of records that serve every task: `{"image": "images/train-00000.png", "caption": ..., "question":
    ..., "answer": ..., "text": ..., "label": ...}`. `text` is the caption without one word, which is `label`. The
    combinations of `val.json` (which two things, how many of which, which digit in which colour) are never shown in
    `train.json`.

    Args:
        folder: Made where it is missing; files of the same names are replaced.
        num_train, num_val: Pictures. `val.json` shows each of its 175 combinations about equally often.
        size: Pixels per side.
        seed: The same pictures and words for the same seed.

    Returns:
        The paths of the two JSON files, under "train" and "val".

    Example:

    ```python
    >>> import json
    >>> from omnilatent.training.data import make_sample_data

    >>> paths = make_sample_data("data/sample", num_train=20, num_val=10)
    >>> sorted(json.loads(paths["train"].read_text())[0])
    ['answer', 'caption', 'image', 'label', 'question', 'text']
    ```
    """
    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    paths = {}
    for split, count in zip(SPLITS, (num_train, num_val)):
        lines = []
        for number, (picture, record) in enumerate(sample_records(split, count, size, seed)):
            name = f"images/{split}-{number:05d}.png"
            picture.save(folder / name)
            lines.append(json.dumps({"image": name, **record}))
        paths[split] = folder / f"{split}.json"
        paths[split].write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    return paths


def sample_records(split: str, count: int, size: int = 96, seed: int = 0) -> Iterator[tuple[Image.Image, dict]]:
    """
    Pictures with their words, without a file.

    Raises:
        ValueError: for another split than "train" or "val", or numbers below 1.
    """
    if split not in SPLITS:
        raise ValueError(f"No split {split!r}: expected one of {', '.join(map(repr, SPLITS))}.")
    if min(count, size) < 1:
        raise ValueError(f"Numbers must be at least 1, got {count} pictures of {size} pixels.")
    for number, scene in enumerate(choose_scenes(split, count, seed)):
        random = Random(f"{seed} {split} {number}")
        canvas = Canvas(size, random)
        scene.draw(canvas, random)
        yield canvas.picture(), describe_scene(scene, random)


def choose_scenes(split: str, count: int, seed: int) -> list[Scene]:
    """For training, kinds in their shares; for validation all held-out scenes in turn."""
    random = Random(f"{seed} {split}")
    scenes = [scene for scene in all_scenes() if scene.held_out == (split == "val")]
    if split == "val":
        rounds = -(-count // len(scenes))
        return [scene for _ in range(rounds) for scene in random.sample(scenes, len(scenes))][:count]
    by_kind = {kind: [scene for scene in scenes if scene.kind == kind] for kind in KIND_SHARES}
    kinds = random.choices(list(KIND_SHARES), list(KIND_SHARES.values()), k=count)
    return [random.choice(by_kind[kind]) for kind in kinds]


def describe_scene(scene: Scene, random: Random) -> dict[str, str]:
    """Caption, a question with its answer, and the caption with a word left out, which is the label."""
    question, answer = random.choice(scene.questions())
    label = random.choice(scene.blanks)
    return {
        "caption": scene.caption,
        "question": question,
        "answer": answer,
        "text": leave_out(scene.caption, label),
        "label": label,
    }


def leave_out(caption: str, blank: str) -> str:
    """A caption with a blank in the place of a word."""
    return " ".join(BLANK if word == blank else word for word in caption.split())
