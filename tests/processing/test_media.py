"""Sound and video files, written and read with PyAV."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from omnilatent.processing import media


def counting_frames(count, height=48, width=64):
    """Frame `i` is grey of level 10 * i, so that a decoded frame tells its index."""
    levels = (10 * np.arange(count)).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).copy()


def indices_of(frames):
    return np.round(frames.mean(axis=(1, 2, 3)) / 10).astype(int).tolist()


def tone(frequency, seconds, rate):
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.mp4"
    media.write_video(path, counting_frames(23), 10, tone(440, 2.3, 16000), 16000)
    return path


def test_written_video_is_read_back_with_its_sound(clip):
    video = media.read_video(clip)
    assert video.frames.shape == (23, 48, 64, 3)
    assert indices_of(video.frames) == list(range(23))
    assert video.fps == 10
    waveform, rate = media.read_audio(clip)
    assert rate == 16000
    assert waveform.shape[1] == pytest.approx(2.3 * 16000, abs=1100)  # AAC fills its last block of 1024
    spectrum = np.abs(np.fft.rfft(waveform[0, 2000:34000]))
    assert spectrum.argmax() * rate / 32000 == pytest.approx(440, abs=1)


def test_sampling_takes_the_last_frame_at_or_before_each_time(clip):
    video = media.read_video(clip, fps=4, max_frames=7)
    expected = [int(i / 4 * 10) for i in range(7)]
    assert video.frames_indices == expected
    assert indices_of(video.frames) == expected


def test_no_frame_is_made_up_after_the_end(clip):
    assert len(media.read_video(clip, fps=4).frames) == 10  # the last starts at 2.25 s of 2.3 s


def test_variable_rate_is_sampled_by_time(tmp_path):
    path, times = tmp_path / "vfr.mkv", [0, 100, 150, 600, 1000]  # milliseconds
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1000)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for time, picture in zip(times, counting_frames(5)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = time
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    video = media.read_video(path, fps=4, max_frames=5)
    assert indices_of(video.frames) == [0, 2, 2, 3, 4]  # at 0, 250, 500, 750 and 1000 ms


def test_bytes_read_like_the_file(clip):
    assert np.array_equal(media.read_video(clip.read_bytes()).frames, media.read_video(clip).frames)


@pytest.mark.parametrize(("matrix", "turns"), [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)])
def test_rotated_video_is_read_upright(tmp_path, matrix, turns):
    stored = counting_frames(3)
    stored[:, :24, :32] = 250
    path = tmp_path / "rotated.mp4"
    media.write_video(path, stored, 10)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # the display matrix of the track header, version 0
    a, b, c, d = (value << 16 for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    upright = media.read_video(bytes(data)).frames[0].astype(int)
    expected = np.rot90(stored[0], turns).astype(int)
    assert upright.shape == expected.shape
    assert np.abs(upright - expected).mean() < 6


def test_oblong_pixels_are_made_square(tmp_path):
    path = tmp_path / "anamorphic.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(3, 2)
        for picture in counting_frames(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    assert media.read_video(path).frames.shape == (3, 48, 96, 3)


def late_sound(path, sound_start, picture_start=0.0):
    """Three seconds of picture, and a second of a constant sound, from the given times on."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=10)
        picture.height, picture.width, picture.pix_fmt = 48, 64, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        for number, level in enumerate(counting_frames(25)):
            frame = av.VideoFrame.from_ndarray(level, format="rgb24")
            frame.pts, frame.time_base = number + round(10 * picture_start), Fraction(1, 10)
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        frame = av.AudioFrame.from_ndarray(np.full((1, 8000), 16384, np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 8000, round(8000 * sound_start), Fraction(1, 8000)
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return path


def test_sound_that_starts_after_the_picture_is_preceded_by_silence(tmp_path):
    (waveform,), rate = media.read_audio(late_sound(tmp_path / "late.mkv", sound_start=1.0))
    assert rate == 8000
    assert waveform.shape == (16000,)
    assert not waveform[:8000].any()
    np.testing.assert_allclose(waveform[8000:], 0.5, atol=1e-4)


def test_sound_from_before_the_picture_is_left_out(tmp_path):
    (waveform,), _ = media.read_audio(late_sound(tmp_path / "early.mkv", sound_start=0.0, picture_start=0.7))
    assert waveform.shape == (2400,)
    with pytest.raises(ValueError, match="over.mkv.*ends before its picture starts"):
        media.read_audio(late_sound(tmp_path / "over.mkv", sound_start=0.0, picture_start=1.5))


@pytest.mark.parametrize("name", ["concat.mp4", "concat.txt"])
def test_playlists_are_not_followed(clip, name):
    playlist = clip.with_name(name)
    playlist.write_text(f"ffconcat version 1.0\nfile '{clip.name}'\n")
    for source in (playlist, f"concat:{clip}"):
        with pytest.raises((ValueError, FileNotFoundError)):
            media.read_video(source)


def test_a_video_shorter_than_its_header_says_is_refused(tmp_path):
    path = tmp_path / "short.mkv"
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), dtype=np.uint8)
    media.write_video(path, noise, 10)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert len(media.read_video(path, fps=8, max_frames=4).frames) == 4
    for asked in ({}, {"fps": 8}, {"fps": 8, "max_frames": 32}):
        with pytest.raises(ValueError, match=r"short.mkv.* ends at [12]\.\d\d s.* 4\.00 s"):
            media.read_video(path, **asked)


def test_a_picture_may_end_before_its_sound(tmp_path):
    path = tmp_path / "long_sound.mkv"
    media.write_video(path, counting_frames(10), 10, tone(440, 3, 16000), 16000)
    assert len(media.read_video(path).frames) == 10


def test_odd_sizes_are_written(tmp_path):
    media.write_video(tmp_path / "odd.mp4", counting_frames(4, 31, 43), 7.5)
    video = media.read_video(tmp_path / "odd.mp4")
    assert video.frames.shape == (4, 31, 43, 3)
    assert video.fps == 7.5


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_stereo_sound_comes_back_within_a_16_bit_step(tmp_path, suffix):
    waveform = np.stack([tone(300, 0.5, 22050), tone(700, 0.5, 22050)])
    media.write_audio(tmp_path / f"sound{suffix}", waveform, 22050)
    read, rate = media.read_audio(tmp_path / f"sound{suffix}")
    assert rate == 22050
    np.testing.assert_allclose(read, waveform, atol=2 / 32768)


@pytest.mark.parametrize("read", [media.read_audio, media.read_video])
@pytest.mark.parametrize("data", [b"", b"no media at all " * 40], ids=["empty", "text"])
def test_unreadable_bytes_are_refused(read, data):
    with pytest.raises(ValueError, match=f"Cannot decode {len(data)} bytes"):
        read(data)


def test_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match="nowhere.mp4"):
        media.read_video("nowhere.mp4")


def test_truncated_file_is_refused_by_name(clip):
    data = clip.read_bytes()
    short = clip.with_name("short.mp4")
    short.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="short.mp4"):
        media.read_video(short)


def test_video_without_sound_says_so(tmp_path):
    media.write_video(tmp_path / "silent.mp4", counting_frames(3), 5)
    assert not media.has_audio(tmp_path / "silent.mp4")
    with pytest.raises(ValueError, match="silent.mp4.*no audio track"):
        media.read_audio(tmp_path / "silent.mp4")


def test_sound_has_no_frames(tmp_path):
    media.write_audio(tmp_path / "sound.wav", tone(300, 0.1, 8000), 8000)
    with pytest.raises(ValueError, match="no video track"):
        media.read_video(tmp_path / "sound.wav")


def test_wrong_arguments_of_writing_are_refused(tmp_path):
    frames, waveform = counting_frames(3), tone(300, 0.1, 16000)
    with pytest.raises(ValueError, match="'.gif'.*expected one of .mp4"):
        media.write_video(tmp_path / "a.gif", frames, 8)
    with pytest.raises(ValueError, match="of uint8, got .*float"):
        media.write_video(tmp_path / "a.mp4", frames / 255, 8)
    with pytest.raises(ValueError, match="12345 Hz with aac: expected one of"):
        media.write_video(tmp_path / "a.mp4", frames, 8, waveform, 12345)
    with pytest.raises(ValueError, match="one or two channels"):
        media.write_audio(tmp_path / "a.wav", np.stack([waveform] * 5), 16000)
    with pytest.raises(ValueError, match="finite waveform"):
        media.write_audio(tmp_path / "a.wav", waveform * np.nan, 16000)
