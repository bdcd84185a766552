"""Videos written for the tests: each frame tells its number, the sound tells the time."""

from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest

from omnilatent.training.data import make_small_world

CODECS = {".webm": ("libvpx", "libopus"), ".avi": ("mpeg4", "mp2"), ".mpeg": ("mpeg2video", "mp2")}
CODECS[".mpg"] = CODECS[".mpeg"]


def numbered_frame(number, width, height):
    """(height, width, 3) uint8; the left half tells the tens, the right half the units."""
    frame = np.empty((height, width, 3), np.uint8)
    frame[:, : width // 2] = 20 + 20 * (number // 10)
    frame[:, width // 2 :] = 20 + 20 * (number % 10)
    return frame


def frame_number(picture):
    """The number in a (3, size, size) picture."""
    size = picture.shape[-1]
    tens, units = picture[:, :, size // 8 : size // 4], picture[:, :, -size // 4 : -size // 8]
    return 10 * round((tens.mean() - 20) / 20) + round((units.mean() - 20) / 20)


def rising_tone(seconds, rate):
    """(samples,) float32: 300 Hz at the start, 400 Hz more with every second."""
    times = np.arange(round(seconds * rate)) / rate
    return (0.4 * np.sin(2 * np.pi * (300 + 200 * times) * times)).astype(np.float32)


def heard_time(samples, rate=16000):
    """Where in the rising tone the middle of these samples lies, in seconds."""
    middle = samples[len(samples) // 2 - 1024 : len(samples) // 2 + 1024].astype(float)
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 16 * len(middle)))
    return (spectrum.argmax() * rate / (16 * len(middle)) - 300) / 400


def write_video(
    path,
    seconds=3.0,
    fps=12,
    size=(64, 48),
    sound_seconds=None,
    sound=True,
    rate=22050,
    pts=None,
    gop=12,
    rotation=None,
    codec=None,
    options=None,
    container_options=None,
):
    """Write numbered frames; `pts` (s) gives each its own time, `sound_seconds` a sound of another length."""
    path.parent.mkdir(parents=True, exist_ok=True)
    default = CODECS.get(path.suffix, ("libx264", "aac"))
    times = [number / fps for number in range(round(seconds * fps))] if pts is None else pts
    if path.suffix == ".webm":
        rate = 48000
    with av.open(str(path), "w", options=container_options or {}) as container:
        picture = container.add_stream(codec or default[0], rate=fps if pts is None else 25, options=options or {})
        picture.width, picture.height, picture.pix_fmt = *size, "yuv420p"
        picture.codec_context.gop_size = gop
        picture.codec_context.bit_rate = 400000
        if rotation is not None:
            picture.set_display_rotation(rotation)
        if pts is not None:
            picture.codec_context.time_base = Fraction(1, 1000)
        track = container.add_stream(default[1], rate=rate, layout="mono") if sound else None
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number, *size), format="rgb24")
            if pts is not None:
                frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(picture.encode(frame))
        if sound:
            samples = rising_tone(seconds if sound_seconds is None else sound_seconds, rate)
            kind, samples = (
                ("s16", np.round(samples * 32767).astype(np.int16)) if default[1] == "mp2" else ("flt", samples)
            )
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format=kind, layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
            container.mux(track.encode(frame))
            container.mux(track.encode(None))
        container.mux(picture.encode(None))
    return path


@pytest.fixture(scope="session")
def media():
    """The functions above, for the tests."""
    return SimpleNamespace(write_video=write_video, frame_number=frame_number, heard_time=heard_time)


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Folder of 11 videos of one scene each."""
    folder = tmp_path_factory.mktemp("world")
    make_small_world(folder, 11, seed=3)
    return folder


@pytest.fixture(scope="session")
def long_videos(tmp_path_factory):
    """Folder of three videos of 5, 7 and 9 seconds with a transcript for the last."""
    folder = tmp_path_factory.mktemp("long")
    for seconds in (5, 7, 9):
        write_video(folder / f"v{seconds}.mp4", seconds)
    (folder / "v9.srt").write_text("00:00:00,000 --> 00:00:01,900\nfirst\n\n00:00:04,100 --> 00:00:05,000\nthen\n")
    return folder
