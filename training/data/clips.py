"""What a clip is: how long, how often, how many frames, how large."""

import math
from dataclasses import dataclass

import numpy as np

# Seconds by which a stream may fall short of a clip's edge: encoders cut sound into whole frames, and one AAC frame
# is 1024 samples, 64 ms at 16 kHz.
EDGE = 0.064


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """
    The measures of a clip.

    Args:
        clip_duration: Seconds of a clip.
        clip_stride: Seconds from the start of a clip to the start of the next one of the same video.
        fps: Frames per second taken from the video; `None` with `num_frames`: `num_frames / clip_duration`, otherwise 8.
        num_frames: Frames of a clip; `None`: `clip_duration * fps`.
        video_size: Pixels per side of the frames of a clip.
        image_size: Pixels per side of the single frame.
        sampling_rate: Samples per second (Hz) of the sound.
        max_text_length: Most tokens of a clip's text.

    Raises:
        ValueError: for a value that is not positive, or `fps` and `num_frames` that contradict each other.

    Example:

    ```python
    >>> from omnilatent.training.data import ClipSpec

    >>> ClipSpec(clip_duration=2.0, fps=8.0).num_frames
    16
    ```
    """

    clip_duration: float = 2.0
    clip_stride: float = 1.0
    fps: float | None = None
    num_frames: int | None = None
    video_size: int = 112
    image_size: int = 224
    sampling_rate: int = 16000
    max_text_length: int = 2048

    def __post_init__(self):
        for name, value in vars(self).items():
            if value is not None and not (0 < value < math.inf):
                raise ValueError(f"`{name}` must be a positive number, got {value}.")
        fps, num_frames = self.fps, self.num_frames
        if fps is None:
            fps = 8.0 if num_frames is None else num_frames / self.clip_duration
        if num_frames is None:
            num_frames = round(self.clip_duration * fps)
        if num_frames < 1 or abs(num_frames - self.clip_duration * fps) > 0.5:
            raise ValueError(
                f"`num_frames` {num_frames} does not fit `clip_duration` {self.clip_duration} s at `fps` {fps}: "
                f"expected {max(1, round(self.clip_duration * fps))}."
            )
        object.__setattr__(self, "fps", float(fps))
        object.__setattr__(self, "num_frames", int(num_frames))

    @classmethod
    def from_config(cls, config=None, **overrides) -> "ClipSpec":
        """Sizes, frame rate, sampling rate and length of text of an `OmniLatentConfig`; `overrides` that are `None` are left out."""
        values = {}
        if config is not None:
            values = {
                "fps": config.video_fps,
                "video_size": config.video_size,
                "image_size": config.image_size,
                "sampling_rate": config.sampling_rate,
                "max_text_length": config.max_text_length,
            }
        values.update({name: value for name, value in overrides.items() if value is not None})
        if overrides.get("num_frames") is not None and overrides.get("fps") is None:
            values.pop("fps", None)  # the number of frames asked for decides, not the config's rate
        return cls(**values)

    @property
    def num_samples(self) -> int:
        """Samples of a clip's sound."""
        return round(self.clip_duration * self.sampling_rate)

    @property
    def image_frame(self) -> int:
        """Which of the frames is the single picture: the middle one, the first of the future half."""
        return self.num_frames // 2

    def frame_times(self, start: float) -> np.ndarray:
        """Instants (µs, int64, shape (num_frames,)) whose frames make the clip that starts at `start` seconds."""
        # whole microseconds, so that clips which share an instant share its decoded frame
        return np.rint((start + np.arange(self.num_frames) / self.fps) * 1e6).astype(np.int64)

    def num_clips(self, duration: float) -> int:
        """How many clips a video of `duration` seconds holds."""
        spare = duration + EDGE - self.clip_duration
        return 0 if spare < 0 else int(spare / self.clip_stride) + 1


def past_and_future(video):
    """
    The two halves of clips in time.

    Args:
        video: (..., T, C, H, W) array or tensor, frames in the fourth axis from the right.

    Returns:
        The first and the last `T // 2` frames.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent.training.data import past_and_future

    >>> past, future = past_and_future(torch.zeros(2, 16, 3, 112, 112))
    >>> past.shape
    torch.Size([2, 8, 3, 112, 112])
    ```
    """
    half = video.shape[-4] // 2
    if half == 0:
        raise ValueError(f"A clip of {video.shape[-4]} frame has no halves.")
    return video[..., :half, :, :, :], video[..., -half:, :, :, :]
