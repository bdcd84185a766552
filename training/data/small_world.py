"""The small world: seeded .mp4 files with sound and .srt, from which every modality can be learned from every other."""

import json
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from .mp4_writer import write_mp4, write_srt, write_whole
from .small_world_scene import draw_scene

SPLITS = ("train", "validation")
MANIFEST = "small_world.json"


def make_small_world(
    folder: str | Path,
    num_videos: int,
    seed: int = 0,
    split: str = "train",
    duration: float = 2.0,
    *,
    scenes_per_video: int = 1,
    fps: float = 8.0,
    pixels: int = 112,
    sampling_rate: int = 16000,
    num_workers: int = 0,
) -> list[Path]:
    """
    Write videos of flying shapes, with H.264 pictures, AAC sound and a caption per scene in an .srt beside.

    What is in them is a pure function of the arguments. Calling it again does nothing, or finishes what was begun.

    Args:
        folder: Made if it is not there; empty, or holding the same small world.
        num_videos: Files.
        seed: Of the scenes.
        split: "train" or "validation", which differ in the combinations of colour and shape.
        duration: Seconds of a scene.
        scenes_per_video: Scenes that follow each other in one file.
        fps: Frames per second.
        pixels: Per side of a frame, even.
        sampling_rate: Of the sound in Hz.
        num_workers: Processes that write; 0 writes here.

    Returns:
        The paths of the videos.

    Raises:
        ValueError: for an unknown split, a number that is not positive, or a folder that holds something else.

    Example:

    ```python
    >>> from omnilatent.training.data import make_small_world

    >>> len(make_small_world("world", num_videos=8, seed=0))
    8
    ```
    """
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}: expected one of {', '.join(SPLITS)}.")
    settings = {
        "num_videos": num_videos,
        "seed": seed,
        "split": split,
        "duration": duration,
        "scenes_per_video": scenes_per_video,
        "fps": fps,
        "pixels": pixels,
        "sampling_rate": sampling_rate,
    }
    for name, value in settings.items():
        if name not in ("seed", "split") and value <= 0:
            raise ValueError(f"`{name}` must be positive, got {value}.")
    if pixels % 2:
        raise ValueError(f"`pixels` must be even, H.264 halves the colours; got {pixels}.")
    folder = Path(folder)
    _claim(folder, settings)
    paths = [folder / f"{split}-{number:06d}.mp4" for number in range(num_videos)]
    write = partial(_write_video, settings=settings)
    missing = [(number, path) for number, path in enumerate(paths) if not path.exists()]
    if num_workers > 0:
        with ProcessPoolExecutor(num_workers) as workers:
            list(workers.map(write, missing, chunksize=8))
    else:
        for number_and_path in missing:
            write(number_and_path)
    return paths


def _claim(folder, settings):
    """Note what the folder is for; a second process that is to write the same finds the same."""
    manifest = folder / MANIFEST
    if manifest.is_file():
        found = json.loads(manifest.read_text())
        if found != settings:
            raise ValueError(f"{str(folder)!r} holds another small world: {found}, asked for {settings}.")
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{str(folder)!r} holds something else: expected an empty folder for the small world.")
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(manifest, lambda unfinished: unfinished.write_text(json.dumps(settings, indent=2)))


def _write_video(number_and_path, settings):
    number, path = number_and_path
    rng = np.random.default_rng((settings["seed"], SPLITS.index(settings["split"]), number))
    duration = settings["duration"]
    scenes = [draw_scene(rng, settings["split"], duration) for _ in range(settings["scenes_per_video"])]
    cues = [(i * duration, (i + 1) * duration, scene.caption()) for i, scene in enumerate(scenes)]
    pieces = (
        (scene.frames(settings["fps"], settings["pixels"]), scene.sound(settings["sampling_rate"])) for scene in scenes
    )
    # the words first: whoever finds the video finds its words, too
    write_whole(path.with_suffix(".srt"), lambda unfinished: write_srt(unfinished, cues))
    write_whole(
        path, lambda unfinished: write_mp4(unfinished, pieces, settings["fps"], settings["sampling_rate"], duration)
    )


def synthetic_collection(
    folder: str | Path,
    num_videos: int = 256,
    seed: int = 0,
    split: str = "train",
    config=None,
    *,
    num_workers: int = 0,
    **keywords,
):
    """
    A small world as a [`VideoCollection`], one clip per scene.

    Args:
        folder: Where its files are, or shall be.
        num_videos, seed, split, num_workers: As in [`make_small_world`].
        config: An `OmniLatentConfig`.
        keywords: As in [`VideoCollection`]; `clip_duration` is the length of the scenes.

    Example:

    ```python
    >>> from omnilatent.training.data import synthetic_collection

    >>> synthetic_collection("world", num_videos=8).num_clips
    8
    ```
    """
    from .collection import VideoCollection

    duration = keywords.setdefault("clip_duration", 2.0)
    keywords.setdefault("clip_stride", duration)
    make_small_world(folder, num_videos, seed, split, duration, num_workers=num_workers)
    return VideoCollection.from_folder(folder, config, seed=seed, **keywords)
