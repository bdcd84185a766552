"""Video files to clips: one seek and one demux pass per stretch of video, for picture and sound together."""

from collections.abc import Sequence
from contextlib import contextmanager
from typing import NamedTuple

import av
import numpy as np

from ...processing.media import end_of_packets, open_container, picture_of, start_of, stated_duration
from .clips import EDGE, ClipSpec
from .clock import FrameClock
from .pictures import FramePicker
from .sound import SoundTrack

# Seconds that one stream of a badly interleaved file may lag behind the other
_INTERLEAVE = 5.0


class VideoInfo(NamedTuple):
    """What the header of a video says."""

    duration: float  # seconds of picture
    has_audio: bool


class UnreadableVideoError(ValueError):
    """The file is no video, or damaged at the place in question."""


class Stretch(NamedTuple):
    """What came out of a stretch of video."""

    clips: list[dict]  # see `decode_clips`
    picture_error: str | None  # why there are fewer clips than asked for
    sound_error: str | None  # why sound is missing although the file has a sound track


@contextmanager
def open_video(source: str | bytes):
    """
    Open a video for reading.

    Args:
        source: Path, the bytes of a file, or an address that `datasets` can open ("hf://…", "zip://…::https://…").
    """
    if isinstance(source, str) and "://" in source:
        from datasets.utils.file_utils import xopen

        with xopen(source, "rb") as file, open_container(file) as container:
            yield container
    else:
        with open_container(source) as container:
            yield container


def probe(source: str | bytes) -> VideoInfo:
    """
    Read the header of a video; nothing is decoded.

    Raises:
        UnreadableVideoError: when there is no picture in it, or no telling how long it is.
        Exception: whatever FFmpeg says of a file it cannot open.
    """
    with open_video(source) as container:
        picture, sound = _streams(container)
        duration = _duration(container, picture)
    if duration <= 0:
        raise UnreadableVideoError("the video has no length")
    return VideoInfo(duration, sound is not None)


def _streams(container):
    picture, sounds = picture_of(container), container.streams.audio
    if picture is None:
        raise UnreadableVideoError("no video stream")
    return picture, sounds[0] if sounds else None


def _duration(container, picture):
    stated = stated_duration(container, picture)
    return end_of_packets(container, picture) - start_of(picture) if stated is None else stated


def reason_of(error: Exception) -> str:
    """An error as the reason of a skip. FFmpeg's messages repeat the path, which the skip names already."""
    message = getattr(error, "strerror", None) or str(error)
    return f"{type(error).__name__}: {message}"


def decode_clips(source: str | bytes, starts: Sequence[float], spec: ClipSpec) -> Stretch:
    """
    Decode the clips that begin at `starts` seconds, in ascending order, out of one stretch of a video.

    A clip is a dict: `video` (T, 3, H, W) uint8, `image` (3, H', W') uint8, `audio` (samples,) int16 (zeros without
    sound), `has_audio` bool, `start` seconds. A frame is the last one shown at or before its instant. A clip is made
    only if all of it was decoded: a damaged file gives the clips before the damage, never a frozen one. Its sound
    counts as present only if all of that was decoded, too, give or take `EDGE` seconds of silence.

    Never raises for what is in the file; the reasons are in the result.
    """
    try:
        for seek in (starts[0] > 0, False):
            with open_video(source) as container:
                reader = _Reader(container, starts, spec)
                reader.read(seek)
            if not (seek and reader.frames.late):
                break  # otherwise the seek went too far, as it may in a container without an index: read it all
        return reader.result()
    except Exception as error:  # FFmpeg reports damage as nearly any exception, PermissionError among them
        return Stretch([], reason_of(error), None)


class _Reader:
    """One pass over an open container."""

    def __init__(self, container, starts, spec):
        self.container, self.starts, self.spec = container, starts, spec
        self.picture, self.sound = _streams(container)
        for stream in (self.picture, self.sound):
            if stream is not None:
                stream.codec_context.thread_count = 1  # the loader's workers are the parallelism
        # a damaged frame must be an error: by default the decoder paints something plausible over it
        self.picture.codec_context.options = {"err_detect": "explode"}
        self.clock = FrameClock(container, self.picture)
        self.stop = starts[-1] + spec.clip_duration
        self.frames = FramePicker(_wanted_sizes(starts, spec), float(self.picture.sample_aspect_ratio or 1))
        self.track = SoundTrack(spec.sampling_rate)
        self.saw_all = False
        self.picture_error = self.sound_error = None

    def read(self, seek):
        try:
            if seek or self.clock.counts_packets:
                self._seek(self.starts[0])
            self._demux(seek)
        except Exception as error:  # as in `decode_clips`, but what came before it is kept
            self.picture_error = reason_of(error)
        self.saw_all = self.frames.done
        if not self.saw_all:
            self.frames.finish(self.clock.frame_duration)
        self.track.end_run()

    def _seek(self, start):
        offset = int((start + self.clock.origin) / self.picture.time_base)
        try:
            self.container.seek(offset, stream=self.picture)
        except av.FFmpegError:
            pass  # a container that cannot seek is read from where it stands; the frames tell their times

    def _demux(self, seek):
        streams = [stream for stream in (self.picture, self.sound) if stream is not None]
        # timestamps beyond which a packet tells that no more is to come
        ends = {s.index: (self.stop + self.clock.origin + _INTERLEAVE) / s.time_base for s in streams}
        for packet in self.container.demux(streams):
            if packet.dts is not None and packet.dts > ends[packet.stream_index]:
                break
            if packet.stream is self.picture:
                if not self.frames.done:
                    self._decode_picture(packet)
            elif self.track.reached < self.stop:
                self._decode_sound(packet)
            if self.frames.done and (self.sound is None or self.track.reached >= self.stop):
                break
            if seek and self.frames.late:
                break

    def _decode_picture(self, packet):
        if packet.is_corrupt:
            raise UnreadableVideoError("damaged packet")
        frames = packet.decode()
        if packet.dts is None and packet.size == 0:  # the end of the file
            frames = self.clock.before_gap(frames, self.stop)
        for frame in frames:
            if frame.is_corrupt:
                raise UnreadableVideoError("damaged frame")
            self.frames.add(frame, self.clock.read(frame))

    def _decode_sound(self, packet):
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            self.sound_error = reason_of(error)
            self.track.end_run()
            return
        for frame in frames:
            self.track.add(frame, None if frame.time is None else frame.time - self.clock.origin)

    def result(self):
        clips = [clip for start in self.starts if (clip := self._clip(start)) is not None]
        if len(clips) == len(self.starts):
            return Stretch(clips, None, self.sound_error)
        reason = self.picture_error or f"the picture ends at {self.frames.reached():.2f} s"
        return Stretch(clips, reason, self.sound_error)

    def _clip(self, start):
        times = [int(time) for time in self.spec.frame_times(start)]
        frames = [self.frames.get(time, self.spec.video_size) for time in times]
        whole = self.saw_all or start + self.spec.clip_duration <= self.frames.reached() + EDGE
        if not whole or any(frame is None for frame in frames):
            return None
        samples = self.track.between(start, self.spec.num_samples)
        return {
            "video": np.stack(frames),
            "image": self.frames.get(times[self.spec.image_frame], self.spec.image_size),
            "audio": np.zeros(self.spec.num_samples, np.int16) if samples is None else samples,
            "has_audio": samples is not None,
            "start": float(start),
        }


def _wanted_sizes(starts, spec):
    """Instant (µs) -> sizes of the pictures wanted there."""
    sizes: dict[int, set[int]] = {}
    for start in starts:
        times = [int(time) for time in spec.frame_times(start)]
        for time in times:
            sizes.setdefault(time, set()).add(spec.video_size)
        sizes[times[spec.image_frame]].add(spec.image_size)
    return sizes
