"""Videos to the tensors that OmniLatent reads, and back.

Shapes: B videos, T frames, H and W pixels.
"""

import numpy as np
import torch
from transformers import BatchFeature
from transformers.image_utils import PILImageResampling
from transformers.processing_utils import Unpack, VideosKwargs
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata, default_sample_indices_fn

from .media import describe, is_media_source, read_video
from .pixels import CropThenResize, crop_to_mask, pad_to_largest, to_uint8


class OmniLatentVideoProcessorKwargs(VideosKwargs, total=False):
    """
    patch_size (`int`, *optional*, defaults to 16): Pixels per side of a tube, which the model turns into one token.
    tubelet_size (`int`, *optional*, defaults to 4): Frames of a tube.
    """

    patch_size: int
    tubelet_size: int


class OmniLatentVideoProcessor(CropThenResize, BaseVideoProcessor):
    r"""
    Samples frames, cuts out the largest middle part with the proportions of `size`, resizes it (112 x 112, bilinear),
    rescales and normalises to [-1, 1]. Videos of different sizes or lengths are padded at the end and come with
    `pixel_mask_videos` (B, T, H, W).

    A file (path, URL or bytes) is decoded with PyAV, upright and with square pixels, at `fps` frames per second from its beginning: frame
    `i` is the last one shown at or before `i / fps` seconds. It gives as many whole tubes as it fills, and at most
    `num_frames` frames, unless a call asks for `num_frames` or `fps`. Frames that are passed in (list of pictures,
    array or tensor (T, H, W, 3) or (T, 3, H, W)) are taken as they are, unless `video_metadata` gives their rate or
    the call asks for `num_frames`, which are then spread evenly. `do_sample_frames=False` keeps each frame.

    Example:

    ```python
    >>> import numpy as np
    >>> from omnilatent import OmniLatentVideoProcessor

    >>> processor = OmniLatentVideoProcessor()
    >>> pixel_values = processor(np.zeros((16, 120, 160, 3), dtype=np.uint8), return_tensors="pt")["pixel_values_videos"]
    >>> pixel_values.shape
    torch.Size([1, 16, 3, 112, 112])
    >>> processor.post_process_videos(pixel_values)[0].shape
    (16, 112, 112, 3)
    ```
    """

    valid_kwargs = OmniLatentVideoProcessorKwargs
    resample = PILImageResampling.BILINEAR
    image_mean = [0.5, 0.5, 0.5]
    image_std = [0.5, 0.5, 0.5]
    size = {"height": 112, "width": 112}
    default_to_square = False
    do_resize = True
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    do_convert_rgb = True
    do_sample_frames = True
    num_frames = 16
    fps = 8
    patch_size = 16
    tubelet_size = 4
    model_input_names = ["pixel_values_videos"]

    def __init__(self, **kwargs: Unpack[OmniLatentVideoProcessorKwargs]):
        super().__init__(**kwargs)

    def preprocess(self, videos, **kwargs: Unpack[OmniLatentVideoProcessorKwargs]) -> BatchFeature:
        # `None` keeps the defaults from being filled in: `sample_frames` must tell what the call asked for
        kwargs.setdefault("num_frames", None)
        kwargs.setdefault("fps", None)
        if are_frame_files(videos):
            kwargs.setdefault("do_sample_frames", False)
        return super().preprocess(videos, **kwargs)

    def _decode_and_sample_videos(self, videos, video_metadata, do_sample_frames=None, sample_indices_fn=None):
        files = as_file_list(videos)
        if files is not None:
            return self.fetch_videos(files, sample_indices_fn)
        return super()._decode_and_sample_videos(videos, video_metadata, do_sample_frames, sample_indices_fn)

    def sample_frames(
        self,
        metadata: VideoMetadata,
        num_frames: int | None = None,
        fps: float | None = None,
        **kwargs,
    ) -> np.ndarray:
        """
        Which of the decoded frames to take.

        Args:
            metadata: Number of frames, and their rate where it is known.
            num_frames, fps: What the call asked for; `None`: nothing.

        Returns:
            `np.ndarray`: Indices into the frames.

        Raises:
            ValueError: if more frames are asked for than there are, or a rate for frames of unknown rate.
        """
        if metadata.fps is None:
            return default_sample_indices_fn(metadata, num_frames=num_frames, fps=fps)
        rate = fps or self.fps
        count = self._num_sampled(metadata.total_num_frames / metadata.fps, num_frames, fps)
        # the margin keeps i / rate * fps from falling just below a whole number
        indices = np.floor(np.arange(count) / rate * metadata.fps + 1e-6).astype(int)
        return indices.clip(max=metadata.total_num_frames - 1)

    def _num_sampled(self, duration: float, num_frames: int | None, fps: float | None) -> int:
        """Frames to take from a video of so many seconds."""
        available = max(1, int(np.ceil(duration * (fps or self.fps) - 1e-6)))  # those that start before its end
        if num_frames is not None and num_frames > available:
            raise ValueError(
                f"Asked for {num_frames} frames at {fps or self.fps} per second, but a video of {duration:.2f} s has "
                f"only {available}."
            )
        count = num_frames or min(available, self.num_frames)
        if num_frames is not None or fps is not None:
            return count
        if count < self.tubelet_size:
            raise ValueError(
                f"A video of {duration:.2f} s has {count} frames at {self.fps} per second; a tube needs "
                f"{self.tubelet_size}."
            )
        return count - count % self.tubelet_size

    def fetch_videos(self, video_url_or_urls, sample_indices_fn=None):
        """Decode a file, or a list of files, with PyAV; the frames as (T, H, W, 3) arrays, and their metadata."""
        if isinstance(video_url_or_urls, (list, tuple)):
            decoded = [self.fetch_videos(item, sample_indices_fn) for item in video_url_or_urls]
            return tuple(list(part) for part in zip(*decoded))
        if not is_media_source(video_url_or_urls):
            raise ValueError(f"Expected a path, URL or bytes of a video, got {type(video_url_or_urls).__name__}.")
        if sample_indices_fn is None:
            video = read_video(video_url_or_urls)
        else:
            video = self._sample_file(video_url_or_urls, **sample_indices_fn.keywords)
        return video.frames, VideoMetadata(
            total_num_frames=video.total_num_frames,
            fps=video.fps,
            height=video.frames.shape[1],
            width=video.frames.shape[2],
            video_backend="pyav",
            frames_indices=video.frames_indices,
        )

    def _sample_file(self, source, num_frames: int | None, fps: float | None, **kwargs):
        """The frames of a file that `_num_sampled` allows; it decodes no further than needed."""
        rate = fps or self.fps
        video = read_video(source, fps=rate, max_frames=num_frames or self.num_frames)
        try:
            count = self._num_sampled(len(video.frames) / rate, num_frames, fps)
        except ValueError as error:
            raise ValueError(f"{describe(source)}: {error}") from error
        return video._replace(frames=video.frames[:count], frames_indices=video.frames_indices[:count])

    def _preprocess(self, videos, return_tensors=None, **kwargs) -> BatchFeature:
        data = super()._preprocess(videos, return_tensors=None, **kwargs)
        data["pixel_values_videos"], masks = pad_to_largest(list(data["pixel_values_videos"]))
        if masks is not None:
            data["pixel_mask_videos"] = masks
        return BatchFeature(data, tensor_type=return_tensors)

    def num_tokens(self, num_frames: int, height: int, width: int) -> int:
        """
        Tokens that the model makes of a video.

        Raises:
            ValueError: if the video cannot be cut into whole tubes.
        """
        if num_frames % self.tubelet_size or height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"A video of {num_frames} frames of {height} x {width} pixels cannot be cut into tubes of "
                f"{self.tubelet_size} frames of {self.patch_size} x {self.patch_size} pixels."
            )
        return (num_frames // self.tubelet_size) * (height // self.patch_size) * (width // self.patch_size)

    def post_process_videos(self, pixel_values_videos, pixel_mask_videos=None) -> list[np.ndarray]:
        r"""
        The way back.

        Args:
            pixel_values_videos (`torch.Tensor` of shape `(B, T, 3, H, W)`): Normalised videos.
            pixel_mask_videos (`torch.Tensor` of shape `(B, T, H, W)`, *optional*): True on real pixels; the rest is
                cut off.

        Returns:
            `list[np.ndarray]`: Frames (T, H, W, 3) uint8 of each video.
        """
        pixel_values_videos = torch.as_tensor(pixel_values_videos)
        if pixel_values_videos.ndim != 5:
            raise ValueError(f"Expected videos (B, T, 3, H, W), got {tuple(pixel_values_videos.shape)}.")
        masks = [None] * len(pixel_values_videos) if pixel_mask_videos is None else pixel_mask_videos
        return [
            to_uint8(crop_to_mask(video, mask), self.image_mean, self.image_std)
            for video, mask in zip(pixel_values_videos, masks)
        ]


def are_frame_files(videos) -> bool:
    """Whether each video is a list of picture files: a list of such lists for each sample."""
    for _ in range(3):
        if not isinstance(videos, (list, tuple)) or not videos:
            return False
        videos = videos[0]
    return isinstance(videos, str)


def as_file_list(videos) -> list | None:
    """
    The files in a file, a list of files, or a list with a list of files for each sample; `None` if these are frames.

    Raises:
        ValueError: for files and frames in one batch.
    """
    if is_media_source(videos):
        return [videos]
    if not isinstance(videos, (list, tuple)):
        return None
    flat = [item for entry in videos for item in (entry if isinstance(entry, (list, tuple)) else [entry])]
    are_files = [is_media_source(item) for item in flat]
    if any(are_files) and not all(are_files):
        raise ValueError("Got files and frames in one batch of videos: pass either the one or the other.")
    return flat if flat and all(are_files) else None


__all__ = ["OmniLatentVideoProcessor"]
