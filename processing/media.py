"""Reading and writing sound and video files with PyAV, whose wheel carries FFmpeg.

PyAV is imported where a file is opened: processors are registered at `import omnilatent`, which must stay light.

Shapes: C channels, S samples, T frames, H and W pixels. Times are seconds from the first frame of the stream.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import av

MediaSource = str | Path | bytes

# Demuxers of the formats we read. A playlist, or a text file that calls itself .mp4, would otherwise be followed to
# whatever files and addresses it names.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,asf,flv,ogg,gif,wav,w64,aiff,au,caf,mp3,flac,aac,ac3,amr,wv"
)
# Streams without an index: their length is only known by reading them through
_UNINDEXED = ("mpeg", "mpegts")
# Seconds by which a video may be shorter than its header says
_MISSING = 0.5

AUDIO_CODECS = {".wav": "pcm_s16le", ".flac": "flac"}
VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov")


class DecodedVideo(NamedTuple):
    """Frames at the times asked for, and what the file says about itself."""

    frames: np.ndarray  # (T, H, W, 3) uint8, upright, with square pixels
    frames_indices: list[int]  # which of the file's frames each one is
    fps: float | None  # average rate of the file
    total_num_frames: int  # in the file, as far as it says; otherwise as many as were decoded


def is_media_source(item) -> bool:
    """Whether `item` is a path, a URL or the bytes of a file, and not decoded samples or frames."""
    return isinstance(item, (str, Path, bytes, bytearray))


def describe(source) -> str:
    """How an error message names a source."""
    return f"{len(source)} bytes" if isinstance(source, (bytes, bytearray)) else repr(str(source))


def open_container(source: "MediaSource | io.IOBase") -> "av.container.InputContainer":
    """
    Open a file or an open stream of bytes with PyAV, if it is of a format that holds its own sound and picture.

    Raises:
        av.error.FFmpegError: if it cannot be opened.
    """
    import av

    if isinstance(source, (bytes, bytearray)):
        source = io.BytesIO(source)
    elif isinstance(source, (str, Path)) and "://" not in str(source):
        source = f"file:{source}"  # otherwise FFmpeg takes what precedes a colon in a name for a protocol
    # tags in a forgotten code page must not make a file unreadable
    return av.open(source, "r", container_options={"format_whitelist": _FORMATS}, metadata_errors="replace")


def picture_of(container) -> "av.VideoStream | None":
    """The first video stream that is no cover of an album."""
    pictures = [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]
    return pictures[0] if pictures else None


def start_of(stream) -> float:
    """The time of a stream's first frame, in seconds."""
    return 0.0 if stream.start_time is None else float(stream.start_time * stream.time_base)


def stated_duration(container, picture) -> float | None:
    """Seconds of picture as the header says, `None` where it does not."""
    import av

    if container.format.name in _UNINDEXED:
        return None
    if picture.duration is not None:
        return float(picture.duration * picture.time_base)
    if container.duration is None:
        return None
    start = 0 if container.start_time is None else container.start_time / av.time_base
    return container.duration / av.time_base - max(0.0, start_of(picture) - start)


def end_of_packets(container, *streams) -> float:
    """The time in seconds at which the last packet of these streams, or of all, ends. Nothing is decoded."""
    packets = container.demux(*streams)
    return float(max(((p.pts + (p.duration or 0)) * p.time_base for p in packets if p.pts is not None), default=0))


@contextmanager
def open_media(source: MediaSource):
    """
    Open a file for reading.

    Raises:
        FileNotFoundError: if the path does not exist.
        ValueError: if nothing in it can be decoded, at opening or later while the file is open.
    """
    import av

    try:
        with open_container(source) as container:
            yield container
    except FileNotFoundError:
        raise
    except av.error.FFmpegError as error:
        raise ValueError(f"Cannot decode {describe(source)} as sound or video: {error}") from error


def read_audio(source: MediaSource) -> tuple[np.ndarray, int]:
    """
    Decode the first audio track of a sound or video file. That of a video begins with its picture: silence comes
    before a sound that starts later, and what is heard before the picture is left out.

    Returns:
        The waveform (C, S) float32 in [-1, 1], and its sampling rate in Hz.

    Raises:
        ValueError: if the file cannot be decoded, or has no sound while its picture is shown.
    """
    import av

    with open_media(source) as container:
        if not container.streams.audio:
            raise ValueError(f"{describe(source)} has no audio track.")
        stream = container.streams.audio[0]
        picture = picture_of(container)
        to_float = av.AudioResampler(format="fltp")
        chunks, delay = [], 0.0
        for frame in container.decode(stream):
            if not chunks and picture is not None and frame.time is not None:
                delay = frame.time - start_of(picture)
            chunks.extend(converted.to_ndarray() for converted in to_float.resample(frame))
        rate = stream.codec_context.sample_rate
    if not chunks:
        raise ValueError(f"The audio track of {describe(source)} is empty.")
    waveform = _delayed(np.concatenate(chunks, axis=1), round(delay * rate))
    if waveform.shape[1] == 0:
        raise ValueError(f"The sound of {describe(source)} ends before its picture starts.")
    return waveform, rate


def _delayed(waveform: np.ndarray, samples: int) -> np.ndarray:
    """(C, S) with so many zeros before it, or, if negative, with so many samples cut off."""
    return np.pad(waveform, ((0, 0), (samples, 0))) if samples >= 0 else waveform[:, -samples:]


def has_audio(source: MediaSource) -> bool:
    """Whether the file carries an audio track."""
    with open_media(source) as container:
        return bool(container.streams.audio)


def read_video(source: MediaSource, fps: float | None = None, max_frames: int | None = None) -> DecodedVideo:
    """
    Decode the first video track. With `fps`, frame `i` is the last one that starts at or before `i / fps` seconds,
    which is exact for a variable rate as well, and no frame is made up after the end.

    Args:
        source: Path, URL or bytes of a file.
        fps: Frames per second to take; `None` takes each frame of the file.
        max_frames: Stop after this many.

    Raises:
        ValueError: if the file has no picture, or if before `max_frames` were reached decoding fails, or ends more than
            half a second before the time that the header states.
    """
    frames, indices, decoded, end = [], [], 0, 0.0
    with open_media(source) as container:
        stream = picture_of(container)
        if stream is None:
            raise ValueError(f"{describe(source)} has no video track.")
        stream.thread_type = "AUTO"
        rate = float(stream.average_rate) if stream.average_rate else None
        pixel_aspect = float(stream.sample_aspect_ratio or 1)
        for decoded, (index, start, end, frame) in enumerate(_timed_frames(container, stream, rate), start=1):  # noqa: B007
            while max_frames is None or len(frames) < max_frames:
                if fps is not None and len(frames) / fps >= end:
                    break
                frames.append(_upright_rgb(frame, pixel_aspect))
                indices.append(index)
                if fps is None:
                    break
            if len(frames) == max_frames:
                break
    if not frames:
        raise ValueError(f"The video track of {describe(source)} has no frames.")
    if len(frames) != max_frames:
        _refuse_truncated(source, end)
    return DecodedVideo(np.stack(frames), indices, rate, stream.frames or decoded)


def _refuse_truncated(source, end: float) -> None:
    """Raise a ValueError for a file whose frames end at `end` seconds, too long before the end that it states."""
    with open_media(source) as container:
        picture = picture_of(container)
        stated = stated_duration(container, picture)
        if stated is None or stated - end <= _MISSING:
            return
        # a whole file may have a sound that outlasts its picture, and its header tell the time of both together
        if stated - (end_of_packets(container) - start_of(picture)) > _MISSING:
            raise ValueError(
                f"{describe(source)} is cut short: its picture ends at {end:.2f} s, and its header says {stated:.2f} s."
            )


def _timed_frames(container, stream, rate) -> Iterator[tuple[int, float, float, "av.VideoFrame"]]:
    """Each frame with its index and the seconds from which and until which it is shown."""
    held, first, index = None, None, 0
    for frame in container.decode(stream):
        if frame.pts is None:
            continue
        time = float(frame.pts * frame.time_base)
        first = time if first is None else first
        if held is not None:
            yield index, held[0], time - first, held[1]
            index += 1
        held = (time - first, frame)
    if held is not None:
        start, frame = held
        shown = float(frame.duration * frame.time_base) if frame.duration else 1 / (rate or 1.0)
        yield index, start, start + shown, frame


def _upright_rgb(frame: "av.VideoFrame", pixel_aspect: float = 1.0) -> np.ndarray:
    """(H, W, 3) uint8 with square pixels, where a stored one is `pixel_aspect` times as wide as high; turned upright."""
    width = max(1, round(frame.width * pixel_aspect))
    picture = frame.reformat(width=width, format="rgb24", interpolation="BILINEAR").to_ndarray()
    # the display matrix tells a counter-clockwise turn in degrees, which is rot90's direction as well
    return np.rot90(picture, k=round(frame.rotation / 90)).copy()


def write_audio(path: str | Path, waveform, sampling_rate: int) -> None:
    """
    Write sound with 16 bits per sample.

    Args:
        path: Ends in .wav or .flac.
        waveform: (S,) or (C, S), float in [-1, 1]; what lies beyond is clipped.
        sampling_rate: In Hz.
    """
    import av

    suffix = Path(path).suffix.lower()
    if suffix not in AUDIO_CODECS:
        raise ValueError(f"Cannot write sound as {suffix!r}: expected one of {', '.join(AUDIO_CODECS)}.")
    waveform = _as_channels(waveform)
    with av.open(str(path), "w") as container:
        _encode_audio(container, AUDIO_CODECS[suffix], waveform, sampling_rate)


def write_video(path: str | Path, frames, fps: float, waveform=None, sampling_rate: int = 16000) -> None:
    """
    Write H.264 video, with AAC sound where a waveform is given.

    Args:
        path: Ends in .mp4, .mkv or .mov.
        frames: (T, H, W, 3) uint8.
        fps: Frames per second.
        waveform: (S,) or (C, S), float in [-1, 1].
        sampling_rate: Of the waveform, in Hz.
    """
    import av

    suffix = Path(path).suffix.lower()
    if suffix not in VIDEO_SUFFIXES:
        raise ValueError(f"Cannot write video as {suffix!r}: expected one of {', '.join(VIDEO_SUFFIXES)}.")
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or len(frames) == 0:
        raise ValueError(f"Expected frames (T, H, W, 3) of uint8, got {frames.shape} of {frames.dtype}.")
    waveform = None if waveform is None else _as_channels(waveform)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": "16"})
        video.height, video.width = frames.shape[1:3]
        # subsampled colour needs even sides
        video.pix_fmt = "yuv420p" if video.height % 2 == 0 and video.width % 2 == 0 else "yuv444p"
        audio = None if waveform is None else _add_audio_stream(container, "aac", waveform, sampling_rate)
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(video.encode(None))
        if audio is not None:
            _mux_audio(container, audio, waveform)


def _encode_audio(container, codec, waveform, sampling_rate):
    _mux_audio(container, _add_audio_stream(container, codec, waveform, sampling_rate), waveform)


def _add_audio_stream(container, codec, waveform, sampling_rate):
    import av

    layout = {1: "mono", 2: "stereo"}.get(len(waveform))
    if layout is None:
        raise ValueError(f"Expected one or two channels of sound, got a waveform {waveform.shape}.")
    rates = av.Codec(codec, "w").audio_rates
    if rates and sampling_rate not in rates:
        raise ValueError(f"Cannot write sound at {sampling_rate} Hz with {codec}: expected one of {sorted(rates)}.")
    return container.add_stream(codec, rate=sampling_rate, layout=layout)


def _mux_audio(container, stream, waveform):
    import av

    if stream.codec_context.format.name == "fltp":
        samples, sample_format = waveform, "fltp"
    else:
        samples, sample_format = np.round(waveform * 32767).astype(np.int16).T.reshape(1, -1), "s16"
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), sample_format, stream.layout.name)
    frame.sample_rate, frame.pts, frame.time_base = stream.rate, 0, Fraction(1, stream.rate)
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _as_channels(waveform) -> np.ndarray:
    """(C, S) float32 in [-1, 1]."""
    waveform = np.asarray(waveform, dtype=np.float32)
    waveform = waveform[None] if waveform.ndim == 1 else waveform
    if waveform.ndim != 2 or waveform.size == 0 or not np.isfinite(waveform).all():
        raise ValueError(f"Expected a finite waveform (samples,) or (channels, samples), got shape {waveform.shape}.")
    return waveform.clip(-1, 1)
