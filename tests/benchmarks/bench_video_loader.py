"""
Streamed video against random access, and the memory of a long run.

    python tests/benchmarks/bench_video_loader.py

Both ways decode the same clips of the same files with the same decoder; the difference is one pass over a segment
against a seek for each clip. Processor time is compared, so that other work on the machine does not matter. Memory is
the proportional set size (PSS) of this process and its workers together, where shared pages count once.
"""

import argparse
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from omnilatent.training.data import ClipSpec, VideoCollection, VideoLoader, decode_clips
from omnilatent.training.data.mp4_writer import write_mp4

FPS, WIDTH, HEIGHT, RATE = 24, 320, 240, 44100


def moving_picture(seconds, seed):
    """Pieces of one second: a texture that drifts, with a hum."""
    rng = np.random.default_rng(seed)
    texture = rng.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    hum = (0.2 * np.sin(2 * np.pi * 220 * np.arange(RATE) / RATE)).astype(np.float32)
    for second in range(seconds):
        shifts = range(second * FPS, (second + 1) * FPS)
        yield np.stack([np.roll(texture, (shift, 2 * shift), axis=(0, 1)) for shift in shifts]), hum


def write_videos(folder, number, seconds, keyframe_seconds):
    for index in range(number):
        path = folder / f"{index}.mp4"
        write_mp4(path, moving_picture(seconds, index), FPS, RATE, keyframe_seconds)


def compare(folder):
    """Clips per second of processor time, streamed and by random access."""
    collection = VideoCollection.from_folder(folder)
    started = time.process_time()
    streamed = sum(len(batch["path"]) for batch in VideoLoader(collection, 8, epochs=1))
    streamed_rate = streamed / (time.process_time() - started)

    spec = ClipSpec()
    clips = [
        (row.source, index * spec.clip_stride)
        for row in collection.rows
        for index in range(spec.num_clips(row.duration))
    ]
    random.Random(0).shuffle(clips)
    started = time.process_time()
    single = sum(len(decode_clips(source, [start], spec).clips) for source, start in clips)
    single_rate = single / (time.process_time() - started)
    assert streamed == single == collection.num_clips
    return streamed_rate, single_rate


def memory():
    """PSS of this process and its workers in MB."""
    me = psutil.Process()
    return sum(process.memory_full_info().pss for process in [me, *me.children(recursive=True)]) / 2**20


def memory_growth(folder, workers, first=100, last=500):
    """MB in use after `first` and after `last` clips of a run."""
    used, clips = {}, 0
    for batch in VideoLoader(VideoCollection.from_folder(folder), 4, num_workers=workers):
        clips += len(batch["path"])
        if clips in (first, last):
            used[clips] = memory()
        if clips >= last:
            return used[first], used[last]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=2, help="files of each kind (default: 2)")
    parser.add_argument("--seconds", type=int, default=40, help="length of each file in seconds (default: 40)")
    parser.add_argument("--workers", type=int, default=2, help="workers of the memory run (default: 2)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        # 10.4 s (250 frames) is what x264 does if nobody asks; 2 s is what streaming sites ask for
        for keyframe_seconds in (10.4, 2.0):
            part = Path(folder, f"{keyframe_seconds}")
            part.mkdir()
            write_videos(part, options.videos, options.seconds, keyframe_seconds)
            streamed, single = compare(part)
            print(
                f"key frame every {keyframe_seconds:4.1f} s: streamed {streamed:6.1f} clips/s per core, "
                f"random access {single:6.1f}, ratio {streamed / single:.1f}"
            )
        for workers in (0, options.workers):
            before, after = memory_growth(part, workers)
            print(
                f"memory with {workers} workers (PSS): {before:.0f} MB after 100 clips, {after:.0f} MB after 500, "
                f"grown by {after - before:+.0f} MB"
            )


if __name__ == "__main__":
    main()
