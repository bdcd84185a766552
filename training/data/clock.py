"""When the frames of a video are shown, container by container."""

from ...processing.media import start_of
from .clips import EDGE

# Timestamps may be rounded to milliseconds (Matroska): a frame at 167 ms is the one meant for 1/6 s
_ROUNDING = 0.0005


class FrameClock:
    """
    Gives decoded frames, in the order in which they come, their time in seconds since the first frame of the file.

    Args:
        container: Open `av` container.
        picture: Its video stream.
    """

    def __init__(self, container, picture):
        self.origin = start_of(picture)
        self._tick = float(picture.time_base)  # seconds
        self.frame_duration = 1 / float(picture.average_rate or picture.guessed_rate or 1)  # of the last frame
        self.time: float | None = None  # of the last frame
        # .avi has no times, it numbers packets in the order of decoding, and FFmpeg's guess at the order of showing is
        # wrong where frames are coded out of order. They come out in the right order, though, each bearing the number
        # of the packet that pushed it out: a fixed number of packets late, which the first frame of the file tells.
        self.counts_packets = container.format.name == "avi"
        self._delay = _packets_held_back(container, picture) if self.counts_packets else 0

    def read(self, frame) -> float:
        """The time from which the next frame is shown."""
        self.time = self._time_of(frame, self.time)
        if frame.duration:
            self.frame_duration = frame.duration * self._tick
        return self.time

    def _time_of(self, frame, last_time):
        if self.counts_packets and frame.dts is not None:
            return (frame.dts - self._delay) * self._tick - self.origin
        if not self.counts_packets and frame.pts is not None:
            return frame.time - self.origin - min(_ROUNDING, self._tick / 2)
        return 0.0 if last_time is None else last_time + self.frame_duration

    def before_gap(self, frames: list, stop: float) -> list:
        """
        The frames that the decoder still held when the file ended, as far as they are to be trusted. In a file that is
        cut short, before `stop` seconds, a frame may be missing that is shown before but stored behind another, and
        the frame before it would stand in its place.
        """
        times = [self.time]
        for frame in frames:
            times.append(self._time_of(frame, times[-1]))
        if not frames or times[-1] + self.frame_duration >= stop - EDGE:
            return frames
        if self.counts_packets:
            return []  # where frames are only counted, a gap does not show
        for number, (before, after) in enumerate(zip(times, times[1:])):
            if before is not None and after - before > 1.5 * self.frame_duration:
                return frames[:number]
        return frames


def _packets_held_back(container, picture) -> int:
    for packet in container.demux(picture):
        for frame in packet.decode():
            return frame.dts or 0
    return 0
