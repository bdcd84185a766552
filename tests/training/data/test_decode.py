import bisect

import av
import numpy as np
import pytest

from omnilatent.training.data import ClipSpec, UnreadableVideoError, decode_clips, probe

SPEC = ClipSpec(clip_duration=1.0, clip_stride=0.5, fps=6, video_size=32, image_size=48)
UNEVEN = [0, 0.1, 0.5, 0.52, 0.9, 1.4, 1.41, 1.42, 2.0, 2.2, 2.3, 2.9, 2.95, 3.0, 3.1]


def starts_of(path):
    return [i * SPEC.clip_stride for i in range(SPEC.num_clips(probe(str(path)).duration))]


def numbers(clip, media):
    return [media.frame_number(picture) for picture in clip["video"]]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm", "a.avi", "a.mov", "a.m4v", "a.mpeg", "a.mpg"])
def test_frames_are_the_last_ones_shown_and_sound_is_in_time(tmp_path, media, name):
    path = media.write_video(tmp_path / name, seconds=3.0, fps=12)
    starts = starts_of(path)
    assert starts == [0.0, 0.5, 1.0, 1.5, 2.0]
    for first in (0, 2):  # from the beginning, and after a seek
        stretch = decode_clips(str(path), starts[first:], SPEC)
        assert (stretch.picture_error, stretch.sound_error) == (None, None)
        assert [clip["start"] for clip in stretch.clips] == starts[first:]
        for clip in stretch.clips:
            assert numbers(clip, media) == [round(12 * clip["start"]) + 2 * i for i in range(6)]
            assert media.frame_number(clip["image"]) == round(12 * clip["start"]) + 6
            assert clip["image"].shape == (3, 48, 48)
            assert clip["has_audio"]
            assert media.heard_time(clip["audio"]) == pytest.approx(clip["start"] + 0.5, abs=0.05)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_avi_with_frames_coded_out_of_order(tmp_path, media, codec):
    path = media.write_video(tmp_path / "b.avi", seconds=3.0, fps=12, codec=codec, options={"bf": "2"})
    for starts in ([0.0, 0.5, 1.0, 1.5, 2.0], [1.5, 2.0]):
        clips = decode_clips(str(path), starts, SPEC).clips
        assert [numbers(clip, media)[0] for clip in clips] == [round(12 * start) for start in starts]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_variable_frame_rate(tmp_path, media, suffix):
    path = media.write_video(tmp_path / f"v{suffix}", seconds=3.0, pts=UNEVEN)
    stretch = decode_clips(str(path), [0.0, 0.5, 1.0, 1.5, 2.0], SPEC)
    assert len(stretch.clips) == 5
    for clip in stretch.clips:
        times = [clip["start"] + i / 6 for i in range(6)]
        assert numbers(clip, media) == [bisect.bisect_right(UNEVEN, time + 1e-4) - 1 for time in times]


@pytest.mark.parametrize("size", [(66, 48), (36, 94), (48, 48), (250, 34)])
def test_odd_sizes_keep_their_middle(tmp_path, media, size):
    path = media.write_video(tmp_path / "a.mkv", seconds=1.5, size=size)
    (clip,) = decode_clips(str(path), [0.0], SPEC).clips
    assert clip["video"].shape == (6, 3, 32, 32)
    assert numbers(clip, media) == [0, 2, 4, 6, 8, 10]


def test_really_odd_sides(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=8)
        stream.width, stream.height, stream.pix_fmt = 53, 37, "yuv444p"
        for _ in range(9):
            frame = av.VideoFrame.from_ndarray(np.full((37, 53, 3), 90, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    (clip,) = decode_clips(str(tmp_path / "a.mkv"), [0.0], SPEC).clips
    assert abs(clip["video"].astype(int) - 90).max() <= 3
    assert not clip["has_audio"]


@pytest.mark.parametrize("turn", [90, 180, -90])
def test_a_turned_video_is_upright(tmp_path, turn):
    """The encoder is given the picture lying on its side, with the note how it has to be turned."""
    upright = np.zeros((48, 48, 3), np.uint8)
    upright[:16] = (250, 40, 40)  # red sky
    upright[:, :12] = (40, 250, 40)  # green edge at the left
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = 48, 48, "yuv444p"
        stream.set_display_rotation(turn)
        for _ in range(9):
            lying = np.ascontiguousarray(np.rot90(upright, k=-turn // 90))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(lying, format="rgb24")))
        container.mux(stream.encode(None))
    (clip,) = decode_clips(str(tmp_path / "a.mp4"), [0.0], SPEC).clips
    assert abs(clip["image"].transpose(1, 2, 0).astype(int) - upright).mean() < 4


def test_without_sound_the_clip_is_kept_and_flagged(tmp_path, media):
    path = media.write_video(tmp_path / "a.mp4", sound=False)
    assert not probe(str(path)).has_audio
    clips = decode_clips(str(path), [0.0, 1.0], SPEC).clips
    assert [clip["has_audio"] for clip in clips] == [False, False]
    assert not clips[0]["audio"].any()


def test_sound_counts_only_where_all_of_it_was_decoded(tmp_path, media):
    path = media.write_video(tmp_path / "a.mp4", sound_seconds=1.7)
    clips = decode_clips(str(path), starts_of(path), SPEC).clips
    assert [clip["has_audio"] for clip in clips] == [True, True, False, False, False]


def test_sound_longer_than_the_picture_gives_no_frozen_clip(tmp_path, media):
    path = media.write_video(tmp_path / "a.mkv", seconds=3.0, sound_seconds=6.0)
    stretch = decode_clips(str(path), starts_of(path), SPEC)
    assert [clip["start"] for clip in stretch.clips] == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert stretch.picture_error == "the picture ends at 3.00 s"


@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "a.mpeg", "faststart.mp4"])
def test_truncated_file_keeps_clips_before_the_error(tmp_path, media, name):
    options = {"movflags": "faststart"} if name == "faststart.mp4" else None
    path = media.write_video(tmp_path / name, seconds=4.0, container_options=options)
    planned = starts_of(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(0.6 * len(data))])
    stretch = decode_clips(str(path), planned, SPEC)
    assert 2 <= len(stretch.clips) < len(planned)
    for start, clip in zip(planned, stretch.clips):
        assert clip["start"] == start
        assert numbers(clip, media) == [round(12 * start) + 2 * i for i in range(6)]
        if clip["has_audio"]:
            assert media.heard_time(clip["audio"]) == pytest.approx(start + 0.5, abs=0.05)
    assert stretch.picture_error


@pytest.mark.parametrize("seed", range(6))
def test_flipped_bits_never_give_a_wrong_frame(tmp_path, media, seed):
    path = media.write_video(tmp_path / "a.mp4", seconds=4.0, sound=False)
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    # inside the coded pictures, which an .mp4 keeps in its mdat box
    begin = data.index(b"mdat") + 8
    for place in rng.integers(begin + 800, len(data) - 1200, size=5):
        data[place] ^= int(rng.integers(1, 256))
    path.write_bytes(data)
    stretch = decode_clips(str(path), [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0], SPEC)
    for clip in stretch.clips:
        expected = [round(12 * clip["start"]) + 2 * i for i in range(6)]
        assert max(abs(np.array(numbers(clip, media)) - expected)) <= 1
    assert len(stretch.clips) == 7 or stretch.picture_error


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello\n" * 200,
        b"\0" * 4096,
        b"#EXTM3U\n#EXTINF:3,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile a.mp4\n",
        b"1\n00:00:01,000 --> 00:00:02,000\nhello\n\n",
    ],
    ids=["empty", "text", "zeros", "playlist", "concat", "subtitles"],
)
def test_what_is_no_video_is_an_error_in_words(tmp_path, media, content):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises((OSError, ValueError)):
        probe(str(path))
    stretch = decode_clips(str(path), [0.0], SPEC)
    assert stretch.clips == [] and stretch.picture_error


def test_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 32000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(UnreadableVideoError, match="no video stream"):
        probe(str(tmp_path / "a.mp4"))


def test_bytes_are_as_good_as_a_file(tmp_path, media):
    path = media.write_video(tmp_path / "a.mp4")
    from_file = decode_clips(str(path), [0.5, 1.0], SPEC).clips
    from_bytes = decode_clips(path.read_bytes(), [0.5, 1.0], SPEC).clips
    for one, other in zip(from_file, from_bytes):
        assert all(np.array_equal(one[name], other[name]) for name in one)


def test_seeking_changes_no_frame(tmp_path, media):
    path = media.write_video(tmp_path / "a.mp4", seconds=6.0, gop=17)
    starts = starts_of(path)
    together = decode_clips(str(path), starts, SPEC).clips
    for start, clip in zip(starts, together):
        (alone,) = decode_clips(str(path), [start], SPEC).clips
        assert np.array_equal(alone["video"], clip["video"])
        assert np.array_equal(alone["image"], clip["image"])


def test_clip_measures_that_contradict_are_refused():
    with pytest.raises(ValueError, match="num_frames.*16.*expected 8"):
        ClipSpec(clip_duration=1.0, fps=8, num_frames=16)
    with pytest.raises(ValueError, match="clip_stride.*0"):
        ClipSpec(clip_stride=0)
    assert ClipSpec(clip_duration=4.0, num_frames=16).fps == 4.0
