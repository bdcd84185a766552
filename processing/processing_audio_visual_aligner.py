"""Files, frames, waveforms and texts to what the towers of an `AudioVisualAligner` read.

Shapes: B batch, T frames, S samples of a waveform.
"""

import json
import os
from pathlib import Path

import torch
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoTokenizer,
    AutoVideoProcessor,
    BatchFeature,
    VideoMAEImageProcessor,
    WhisperFeatureExtractor,
)
from transformers.utils import PROCESSOR_NAME, PushToHubMixin, cached_file
from transformers.utils.hub import DownloadKwargs

from .feature_extraction_omnilatent import OmniLatentFeatureExtractor
from .media import is_media_source, read_video

VISION_FOLDER, AUDIO_FOLDER, TEXT_FOLDER = "vision_processor", "audio_processor", "tokenizer"


class AudioVisualAlignerProcessor(PushToHubMixin):
    r"""
    Holds the processors that belong to the towers of an [`AudioVisualAligner`], each saved in a folder of its own.

    Args:
        vision_processor: An image processor, which gets all frames, or a video processor.
        audio_processor: A feature extractor.
        tokenizer: Of the text tower, if there is one.
        video_fps: Frames per second that are taken from files.
        num_frames: Frames that the vision tower reads of each video, spread evenly over it; `None`: all of them, and
            then the videos of a batch must be equally long.
        band_mean, band_std: Of each band of the spectrogram, by which it is standardised; `None`: it is left as the
            audio processor makes it. `fit_bands` measures them, for a tower that is trained from nothing.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent import AudioVisualAlignerProcessor

    >>> processor = AudioVisualAlignerProcessor.from_sizes(image_size=32, num_frames=4, num_mel_bins=20, seconds=2)
    >>> frames = torch.randint(0, 256, (3, 16, 3, 48, 64), dtype=torch.uint8)
    >>> inputs = processor(videos=frames, audio=torch.randn(3, 32000))
    >>> {name: tuple(values.shape) for name, values in inputs.items()}
    {'pixel_values_videos': (3, 4, 3, 32, 32), 'vision_timestamps': (3, 4), 'input_features': (3, 20, 200)}
    ```
    """

    def __init__(
        self,
        vision_processor,
        audio_processor,
        tokenizer=None,
        video_fps: float = 8.0,
        num_frames: int | None = None,
        band_mean: list[float] | None = None,
        band_std: list[float] | None = None,
    ):
        self.vision_processor = vision_processor
        self.audio_processor = audio_processor
        self.tokenizer = tokenizer
        self.video_fps = video_fps
        self.num_frames = num_frames
        self.band_mean = band_mean
        self.band_std = band_std

    @classmethod
    def from_sizes(
        cls, image_size: int, num_frames: int | None, num_mel_bins: int, seconds: int, **settings
    ) -> "AudioVisualAlignerProcessor":
        """
        For towers that come without processors: square frames in [-1, 1], and Whisper's log-mel spectrogram.

        Args:
            image_size: Pixels per side.
            num_frames: As in the class.
            num_mel_bins: Bands of the spectrogram, of 100 frames per second.
            seconds: To which sounds are cut or filled with silence.
            settings: The other arguments of the class.
        """
        vision = VideoMAEImageProcessor(
            size={"shortest_edge": image_size},
            crop_size={"height": image_size, "width": image_size},
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        )
        # a window of 64 ms leaves no filter empty
        audio = WhisperFeatureExtractor(feature_size=num_mel_bins, n_fft=1024, chunk_length=seconds)
        return cls(vision, audio, num_frames=num_frames, **settings)

    @classmethod
    def from_towers(
        cls, vision: str, audio: str, text: str | None = None, **settings
    ) -> "AudioVisualAlignerProcessor":
        """The processors in the folders or repositories of the towers; `settings` are the class's other arguments."""
        return cls(
            _load_vision(vision),
            AutoFeatureExtractor.from_pretrained(audio),
            None if text is None else AutoTokenizer.from_pretrained(text),
            **settings,
        )

    def __call__(self, videos=None, audio=None, text=None, sampling_rate: int = 16000) -> BatchFeature:
        """
        Args:
            videos: Tensor (B, T, 3, H, W) uint8 at `video_fps`, or a list of such (T, 3, H, W), of arrays
                (T, H, W, 3), and of files.
            audio: Tensor (B, S) of floats in [-1, 1] or int16, or a list of waveforms (S,) and of files.
            text: A string or a list of them.
            sampling_rate: Of waveforms, in Hz; files know theirs.

        Returns:
            What [`AudioVisualAligner`] takes: `pixel_values_videos` and `vision_timestamps`, `input_values` or
            `input_features` with `audio_attention_mask` where the extractor makes one, `input_ids` and
            `attention_mask`.

        Raises:
            ValueError: for files that cannot be read, videos of different lengths, text without a tokenizer, or
                nothing at all.
        """
        inputs = {}
        if videos is not None:
            inputs |= self._videos(videos)
        if audio is not None:
            inputs |= self._audio(audio, sampling_rate)
        if text is not None:
            if self.tokenizer is None:
                raise ValueError("The processor has no tokenizer, as there is no text tower.")
            texts = [text] if isinstance(text, str) else list(text)
            encoded = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
            inputs |= {name: encoded[name] for name in ("input_ids", "attention_mask")}
        if not inputs:
            raise ValueError("Give `videos`, `audio` or `text`.")
        return BatchFeature(inputs)

    def _videos(self, videos):
        frames, times = zip(*(self._take_frames(video) for video in videos))
        lengths = {len(video) for video in frames}
        if len(lengths) > 1:
            raise ValueError(
                f"Videos of one batch have different numbers of frames, {sorted(lengths)}; set `num_frames`."
            )
        if hasattr(self.vision_processor, "do_sample_frames"):
            made = self.vision_processor(videos=list(frames), do_sample_frames=False, return_tensors="pt")
        else:
            made = self.vision_processor([frame for video in frames for frame in video], return_tensors="pt")
        pixels = next(made[name] for name in ("pixel_values_videos", "pixel_values") if name in made)
        pixels = pixels.reshape(len(frames), len(frames[0]), *pixels.shape[-3:])
        return {"pixel_values_videos": pixels, "vision_timestamps": torch.stack(times)}

    def _take_frames(self, video):
        """Frames (T, 3, H, W) and their times (T,) in seconds."""
        if is_media_source(video):
            video = read_video(video, fps=self.video_fps).frames
        video = torch.as_tensor(video)
        if video.ndim != 4 or 3 not in (video.shape[1], video.shape[3]) or len(video) == 0:
            raise ValueError(
                f"A video must be (frames, 3, height, width) or (frames, height, width, 3), got {tuple(video.shape)}."
            )
        if video.shape[1] != 3:
            video = video.permute(0, 3, 1, 2)
        chosen = torch.arange(len(video))
        if self.num_frames is not None:
            chosen = torch.linspace(0, len(video) - 1, self.num_frames).round().long()
        return video[chosen], chosen / self.video_fps

    def _audio(self, audio, sampling_rate):
        rate = self.audio_processor.sampling_rate
        loader = OmniLatentFeatureExtractor(sampling_rate=rate)
        waveforms = [loader.load_waveform(clip, sampling_rate).cpu().numpy() for clip in audio]
        lengths = {len(waveform) for waveform in waveforms}
        padding = {"padding": True} if self.audio_processor.model_input_names[0] == "input_values" else {}
        made = self.audio_processor(waveforms, sampling_rate=rate, return_tensors="pt", **padding)
        inputs = {name: made[name] for name in ("input_values", "input_features") if name in made}
        if self.band_mean is not None:
            mean, std = (torch.tensor(values).unsqueeze(1) for values in (self.band_mean, self.band_std))
            inputs["input_features"] = (inputs["input_features"] - mean) / std
        if "attention_mask" in made and len(lengths) > 1:
            inputs["audio_attention_mask"] = made["attention_mask"]
        return inputs

    def fit_bands(self, audio, sampling_rate: int = 16000):
        """Measure mean and standard deviation of each band, and standardise by them from now on.

        Args:
            audio, sampling_rate: As in `__call__`. The extractor must make spectrograms (B, bands, frames).
        """
        self.band_mean = self.band_std = None
        features = self._audio(audio, sampling_rate)["input_features"]
        self.band_mean = features.mean(dim=(0, 2)).tolist()
        self.band_std = features.std(dim=(0, 2)).clamp(min=1e-3).tolist()

    # --- files ---------------------------------------------------------------------------------------------------

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs):
        """
        Write the processors into sub-folders of a folder, which may be the model's.

        Args:
            save_directory: The folder.
            push_to_hub: Upload the folder as well.
            kwargs: As in `push_to_hub`.
        """
        folder = Path(save_directory)
        for name, part in self._parts().items():
            if part is not None:
                part.save_pretrained(folder / name)
        settings = {"processor_class": type(self).__name__}  # by which AutoProcessor finds the class
        settings |= {name: getattr(self, name) for name in ("video_fps", "num_frames", "band_mean", "band_std")}
        (folder / PROCESSOR_NAME).write_text(json.dumps(settings, indent=2))
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", folder.name), **kwargs)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, subfolder: str = "", **kwargs
    ) -> "AudioVisualAlignerProcessor":
        """
        What `save_pretrained` wrote into a folder, or a repository on the Hub; `AutoProcessor` comes here too.

        Args:
            pretrained_model_name_or_path: The folder or the repository.
            subfolder: Where in it the processor is.
            kwargs: How to download, as `revision`, `token` and `cache_dir`; and arguments of the class, which take the
                place of what was saved.
        """
        source = str(pretrained_model_name_or_path)
        download = {name: kwargs.pop(name) for name in DownloadKwargs.__annotations__ if name in kwargs}
        for name in ("_from_auto", "trust_remote_code"):  # AutoProcessor's, of no use here
            kwargs.pop(name, None)
        folder = Path(subfolder)
        with open(cached_file(source, (folder / PROCESSOR_NAME).as_posix(), **download)) as file:
            settings = json.load(file) | kwargs
        settings.pop("processor_class", None)
        has_text = cached_file(
            source,
            (folder / TEXT_FOLDER / "tokenizer_config.json").as_posix(),
            _raise_exceptions_for_missing_entries=False,
            **download,
        )

        def load(kind, name):
            return kind(source, subfolder=(folder / name).as_posix(), **download)

        return cls(
            load(_load_vision, VISION_FOLDER),
            load(AutoFeatureExtractor.from_pretrained, AUDIO_FOLDER),
            load(AutoTokenizer.from_pretrained, TEXT_FOLDER) if has_text else None,
            **settings,
        )

    def _parts(self):
        return {VISION_FOLDER: self.vision_processor, AUDIO_FOLDER: self.audio_processor, TEXT_FOLDER: self.tokenizer}


def _load_vision(source, **kwargs):
    """An image processor, or the video processor of a tower that has no other."""
    try:
        return AutoImageProcessor.from_pretrained(source, **kwargs)
    except (OSError, ValueError):
        return AutoVideoProcessor.from_pretrained(source, **kwargs)


__all__ = ["AudioVisualAlignerProcessor"]
