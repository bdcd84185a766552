"""Frames of a video at given instants, upright, square and small."""

import numpy as np
from av.video.reformatter import VideoReformatter

_MICROSECOND = 1e-6


class FramePicker:
    """
    Takes decoded frames in order and keeps, for every instant asked for, the last frame shown at or before it.

    Args:
        sizes: Instant (µs) -> pixels per side wanted at that instant, one or several.
        pixel_aspect: Width of a pixel over its height.
    """

    def __init__(self, sizes: dict[int, set[int]], pixel_aspect: float = 1.0):
        self._sizes = sizes
        self._instants = sorted(sizes)
        self._next = 0
        self._pixel_aspect = pixel_aspect
        self._frame = None
        self._time = self._end = None  # µs
        self.late = False  # whether the first frame came only after the first instant
        self._pictures: dict[tuple[int, int], np.ndarray] = {}
        # one for each size: a reformatter keeps what it has set up for one kind of conversion
        self._reformatters = {size: VideoReformatter() for wanted in sizes.values() for size in wanted}

    @property
    def done(self) -> bool:
        """Whether every instant has its frame, or is known to have none."""
        return self._next == len(self._instants)

    def add(self, frame, time: float) -> None:
        """Take the next frame, shown from `time` seconds on."""
        time = round(time / _MICROSECOND)
        if self._time is not None and time <= self._time:
            return  # a timestamp running backwards: this frame was never shown
        if self._frame is None:
            self.late = time > self._instants[0]
        else:
            self._settle(until=time)
        self._frame, self._time = frame, time

    def finish(self, frame_duration: float) -> None:
        """No frame follows: the last one stays on for `frame_duration` seconds, and what lies beyond has no frame."""
        if self._frame is not None:
            self._end = self._time + round(frame_duration / _MICROSECOND)
            self._settle(until=self._end)

    def reached(self) -> float:
        """Seconds up to which frames are known."""
        end = self._end if self._end is not None else self._time
        return 0.0 if end is None else end * _MICROSECOND

    def get(self, instant: int, size: int) -> np.ndarray | None:
        """(3, size, size) uint8 picture at `instant` (µs), or `None` where no frame was decoded."""
        return self._pictures.get((instant, size))

    def _settle(self, until):
        made = {}
        while not self.done and self._instants[self._next] < until:
            instant = self._instants[self._next]
            if instant >= self._time:
                for size in self._sizes[instant]:
                    if size not in made:
                        made[size] = upright_square(self._frame, size, self._pixel_aspect, self._reformatters[size])
                    self._pictures[instant, size] = made[size]
            self._next += 1


def upright_square(
    frame, size: int, pixel_aspect: float = 1.0, reformatter: VideoReformatter | None = None
) -> np.ndarray:
    """
    A frame as a small square picture: the shorter side becomes `size`, the longer one is cropped around its middle,
    and a camera that was held sideways is turned upright.

    Args:
        frame: `av.VideoFrame`.
        size: Pixels per side.
        pixel_aspect: Width of a pixel over its height.
        reformatter: Kept for frames of the same kind.

    Returns:
        (3, size, size) uint8, RGB.
    """
    width, height = frame.width * pixel_aspect, frame.height
    scale = size / min(width, height)
    width, height = max(size, round(width * scale)), max(size, round(height * scale))
    reformatter = reformatter or VideoReformatter()
    # one thread: starting more costs longer than so small a picture takes, and the workers are parallel already
    picture = reformatter.reformat(frame, width, height, "rgb24", interpolation="BILINEAR", threads=1).to_ndarray()
    top, left = (height - size) // 2, (width - size) // 2
    picture = picture[top : top + size, left : left + size]
    # the display matrix tells a counter-clockwise turn in degrees, which is rot90's direction as well
    picture = np.rot90(picture, k=round(frame.rotation / 90))
    return np.ascontiguousarray(picture.transpose(2, 0, 1))  # (H, W, 3) -> (3, H, W)
