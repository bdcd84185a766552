"""Small .mp4 files, piece by piece, quickly: H.264 and AAC without the search for the last bit."""

import os
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write_mp4(
    path: Path,
    pieces: Iterable[tuple[np.ndarray, np.ndarray | None]],
    fps: float,
    sampling_rate: int,
    keyframe_seconds: float,
) -> None:
    """
    Encode pieces of a video that follow each other.

    Args:
        path: The file to write.
        pieces: Frames (T, H, W, 3) uint8 with H and W even, and their sound (S,) float32 in [-1, 1] or `None`. A file
            has a sound track if its first piece has; sound after a piece without is not written.
        fps: Frames per second.
        sampling_rate: Of the sound in Hz.
        keyframe_seconds: Seconds from one key frame to the next, where a reader can begin.
    """
    with av.open(str(path), "w", format="mp4") as container:
        picture = sound = None
        written = 0  # samples
        for frames, samples in pieces:
            if picture is None:
                picture = _add_picture(container, frames.shape[1:3], fps, keyframe_seconds)
                if samples is not None:
                    sound = container.add_stream("aac", rate=sampling_rate, layout="mono")
                    sound.bit_rate = 48000  # 45 dB above the noise at 16 kHz; more takes twice the time
                    sound.options = {"aac_coder": "fast", "aac_pns": "0"}
            for frame in frames:
                container.mux(picture.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
            if sound is not None and samples is not None:
                frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = sampling_rate, written, Fraction(1, sampling_rate)
                container.mux(sound.encode(frame))
                written += len(samples)
            elif sound is not None:
                container.mux(sound.encode(None))
                sound = None
        for stream in (picture, sound):
            if stream is not None:
                container.mux(stream.encode(None))


def _add_picture(container, size, fps, keyframe_seconds):
    picture = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
    picture.height, picture.width = size
    picture.pix_fmt = "yuv420p"
    picture.options = {"preset": "ultrafast", "crf": "16"}
    picture.codec_context.thread_count = 1
    picture.codec_context.gop_size = max(1, round(keyframe_seconds * fps))
    return picture


def write_srt(path: Path, cues: Iterable[tuple[float, float, str]]) -> None:
    """Write cues (start, end, text), times in seconds, as SubRip subtitles."""
    blocks = [
        f"{n}\n{_clock(start)} --> {_clock(end)}\n{text}\n" for n, (start, end, text) in enumerate(cues, start=1)
    ]
    path.write_text("\n".join(blocks), encoding="utf-8")


def _clock(seconds):
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{milliseconds // 1000:02d},{milliseconds % 1000:03d}"


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Write beside and rename, so that nobody reads half a file and two writers do not meet in one."""
    unfinished = path.with_name(f".{os.getpid()}-{path.name}")
    write(unfinished)
    os.replace(unfinished, path)
