"""From sound to the log-mel spectrogram that OmniLatent reads, and back.

Shapes: B clips, C channels, S samples, M mel bands, F mel frames.

torchaudio is imported where it is used: processors are registered at `import omnilatent`, which must stay light.
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from transformers import BatchFeature, SequenceFeatureExtractor

from ..configuration.layout import AUDIO_STRIDE
from .media import is_media_source, read_audio

# Power below this is silence. Its logarithm and that of a full-scale tone under a Hann window of 1024 samples
# (about 1e5) differ by 10 powers of ten, 100 dB, and lie at -5 and 5.
SILENCE_POWER = 1e-5
LOG_SCALE = 5.0


@cache
def _mel_spectrogram(sampling_rate, n_fft, hop_length, num_mel_bins, device):
    import torchaudio

    # Zeros around the clip, so that the frames of a clip do not depend on the padding that follows it in a batch.
    return torchaudio.transforms.MelSpectrogram(
        sampling_rate, n_fft=n_fft, hop_length=hop_length, n_mels=num_mel_bins, power=2.0, pad_mode="constant"
    ).to(device)


def _resample(waveform: torch.Tensor, rate: int, target: int) -> torch.Tensor:
    import torchaudio

    return torchaudio.functional.resample(waveform, rate, target)


def _spectrum_of_mel(mel: torch.Tensor, filters: torch.Tensor, num_iterations: int = 30) -> torch.Tensor:
    """
    A power spectrum (..., n_fft // 2 + 1, F) with the mel powers (..., M, F), by the multiplicative updates of Lee
    and Seung (2001) for the Kullback-Leibler divergence: it stays positive, where a pseudo-inverse would be cut off
    at 0 and become too loud. `filters` is (n_fft // 2 + 1, M).
    """
    spectrum = (filters / filters.sum(0)) @ mel
    weight = filters.sum(1, keepdim=True).clamp_min(1e-9)  # the first and the last frequency are in no filter
    for _ in range(num_iterations):
        spectrum = spectrum * (filters @ (mel / (filters.T @ spectrum).clamp_min(1e-12))) / weight
    return spectrum


def log_mel(
    waveform: torch.Tensor,
    sampling_rate: int = 16000,
    n_fft: int = 1024,
    hop_length: int = 160,
    num_mel_bins: int = 128,
) -> torch.Tensor:
    r"""
    `log10(max(mel power, 1e-5)) / 5`: -1 is silence, a full-scale tone reaches about 1. Runs on the device of its
    input.

    Args:
        waveform (`torch.Tensor` of shape `(..., S)`): Sound in [-1, 1] at `sampling_rate`.
        sampling_rate (`int`): In Hz.
        n_fft (`int`): Samples of the analysis window.
        hop_length (`int`): Samples from one frame to the next.
        num_mel_bins (`int`): Mel bands between 0 Hz and half the sampling rate.

    Returns:
        `torch.Tensor` of shape `(..., M, F)`, float32, with `F = S // hop_length`.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent.processing.feature_extraction_omnilatent import log_mel

    >>> log_mel(torch.zeros(2, 32000)).shape
    torch.Size([2, 128, 200])
    ```
    """
    if waveform.shape[-1] < hop_length:
        raise ValueError(f"Got {waveform.shape[-1]} samples of sound; one mel frame needs {hop_length}.")
    with torch.autocast(waveform.device.type, enabled=False):  # half precision cannot hold 100 dB
        mel = _mel_spectrogram(sampling_rate, n_fft, hop_length, num_mel_bins, waveform.device)(waveform.float())
    frames = waveform.shape[-1] // hop_length
    return mel[..., :frames].clamp_min(SILENCE_POWER).log10() / LOG_SCALE


class OmniLatentFeatureExtractor(SequenceFeatureExtractor):
    r"""
    Sound to log-mel features (`log_mel`), and features to sound (`to_waveform`).

    Args:
        feature_size (`int`, defaults to 128): Mel bands.
        sampling_rate (`int`, defaults to 16000): Rate in Hz to which all sound is resampled.
        padding_value (`float`, defaults to -1.0): Written after shorter clips of a batch; -1 is silence.
        hop_length (`int`, defaults to 160): Samples between two frames.
        n_fft (`int`, defaults to 1024): Samples of the analysis window.
        frames_per_token (`int`, defaults to 4): Frames that the model's audio encoder turns into one token.
        target_length (`int`, defaults to 200): Frames of a sound to be generated, where nothing else is said.

    Example:

    ```python
    >>> import numpy as np
    >>> from omnilatent import OmniLatentFeatureExtractor

    >>> extractor = OmniLatentFeatureExtractor()
    >>> tone = np.sin(2 * np.pi * 440 * np.arange(44100) / 44100)
    >>> features = extractor(tone, sampling_rate=44100, return_tensors="pt")["input_features"]
    >>> features.shape
    torch.Size([1, 128, 100])
    >>> extractor.to_waveform(features).shape
    torch.Size([1, 16000])
    ```
    """

    model_input_names = ["input_features", "input_features_mask"]

    def __init__(
        self,
        feature_size: int = 128,
        sampling_rate: int = 16000,
        padding_value: float = -1.0,
        hop_length: int = 160,
        n_fft: int = 1024,
        frames_per_token: int = AUDIO_STRIDE,
        target_length: int = 200,
        **kwargs,
    ):
        super().__init__(feature_size, sampling_rate, padding_value, **kwargs)
        self.hop_length = hop_length
        self.n_fft = n_fft
        self.frames_per_token = frames_per_token
        self.target_length = target_length

    def __call__(
        self,
        raw_speech,
        sampling_rate: int | None = None,
        padding: bool | str = True,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        device: str | torch.device | None = None,
        return_tensors: str | None = None,
        **kwargs,
    ) -> BatchFeature:
        r"""
        Args:
            raw_speech: One clip or a list of clips. A clip is a waveform (S,) or (C, S) as array, tensor or list
                (floats in [-1, 1] or whole numbers of 8, 16 or 32 bits), a dict with such an `array` and its
                `sampling_rate`, or a path, a URL or the bytes of a sound or video file. Channels are averaged.
            sampling_rate (`int`, *optional*): Rate of waveforms that are passed in, in Hz; files know theirs. `None`:
                already `self.sampling_rate`.
            padding (`bool` or `str`, defaults to `True`): As in `SequenceFeatureExtractor.pad`.
            max_length (`int`, *optional*): Frames to pad or truncate to.
            truncation (`bool`, defaults to `False`): Cut clips longer than `max_length`.
            pad_to_multiple_of (`int`, *optional*): Round the padded number of frames up to a multiple of this.
            return_attention_mask (`bool`, *optional*): `False` leaves the mask out.
            device (`str`, *optional*): Where the spectrogram is computed.
            return_tensors (`str`, *optional*): `"pt"` or `"np"`.

        Returns:
            `input_features` (B, M, F) float32 and `input_features_mask` (B, F) bool, True on real frames.

        Raises:
            ValueError: for a file without sound, an empty clip, values that are not finite, a wrong shape.
        """
        clips = [self._features(clip, sampling_rate, device) for clip in _as_clips(raw_speech)]
        padded = self.pad(
            BatchFeature({"input_features": clips}),  # (F, M) each: `pad` pads the first dimension
            padding=padding,
            max_length=max_length,
            truncation=bool(truncation),
            pad_to_multiple_of=pad_to_multiple_of,
            return_attention_mask=return_attention_mask,
        )
        data = {"input_features": [clip.T for clip in padded["input_features"]]}
        if "attention_mask" in padded:
            data["input_features_mask"] = [mask.astype(bool) for mask in padded["attention_mask"]]
        return BatchFeature(data, tensor_type=return_tensors)

    def _features(self, clip, sampling_rate, device) -> np.ndarray:
        """(F, M) float32 of one clip."""
        waveform = self.load_waveform(clip, sampling_rate)
        if device is not None:
            waveform = waveform.to(device)
        features = log_mel(waveform, self.sampling_rate, self.n_fft, self.hop_length, self.feature_size)
        return features.T.cpu().numpy()

    def load_waveform(self, clip, sampling_rate: int | None = None) -> torch.Tensor:
        """
        One clip as a mono waveform (S,) float32 at `self.sampling_rate`.

        Args:
            clip: A waveform or a file, as in `__call__`.
            sampling_rate (`int`, *optional*): Rate of a waveform, in Hz. `None`: `self.sampling_rate`.
        """
        samples, sampling_rate = _samples_and_rate(clip, sampling_rate)
        waveform = _as_mono(samples)
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            waveform = _resample(waveform, sampling_rate, self.sampling_rate)
        return waveform

    def fetch_audio(self, audio_url_or_urls, sampling_rate: int | None = None):
        """
        Replace files, and dicts with an array and its rate, in a clip or a (nested) list of clips by resampled
        waveforms. Files are decoded with PyAV.

        Args:
            audio_url_or_urls: Files, dicts and waveforms; waveforms stay as they are.
            sampling_rate (`int`, *optional*): Rate of the decoded waveforms in Hz. `None`: `self.sampling_rate`.
        """
        if _knows_its_rate(audio_url_or_urls):
            samples, rate = _samples_and_rate(audio_url_or_urls)
            target = sampling_rate or self.sampling_rate
            return _resample(_as_mono(samples), rate, target).numpy()
        if isinstance(audio_url_or_urls, (list, tuple)) and not _is_number(audio_url_or_urls):
            return [self.fetch_audio(item, sampling_rate) for item in audio_url_or_urls]
        return audio_url_or_urls

    def num_tokens(self, num_frames: int) -> int:
        """Tokens that the model makes of so many mel frames."""
        return math.ceil(num_frames / self.frames_per_token)

    def to_waveform(
        self,
        input_features: torch.Tensor,
        vocoder: Callable[[torch.Tensor], torch.Tensor] | None = None,
        num_iterations: int = 32,
    ) -> torch.Tensor:
        r"""
        Sound of log-mel features. Without a vocoder the phase, which features do not hold, is estimated by
        Griffin-Lim (Perraudin et al. 2013, the fast variant), always the same for the same features.

        Args:
            input_features (`torch.Tensor` of shape `(..., M, F)`): As `__call__` returns them.
            vocoder (`Callable`, *optional*): A neural vocoder, or anything that turns features (..., M, F) into
                sound (..., S).
            num_iterations (`int`, defaults to 32): Of Griffin-Lim.

        Returns:
            `torch.Tensor` of shape `(..., F * hop_length)`: float32 in [-1, 1] at `self.sampling_rate`.
        """
        import torchaudio

        input_features = torch.as_tensor(input_features).float()
        if input_features.ndim < 2 or input_features.shape[-2] != self.feature_size or input_features.shape[-1] == 0:
            raise ValueError(
                f"Expected features (..., {self.feature_size}, frames), got {tuple(input_features.shape)}."
            )
        if vocoder is not None:
            return vocoder(input_features)
        settings = (self.sampling_rate, self.n_fft, self.hop_length, self.feature_size, input_features.device)
        filters = _mel_spectrogram(*settings).mel_scale.fb
        # S samples give F + 1 centred frames, the last of which the features leave out
        features = torch.cat([input_features, input_features[..., -1:]], dim=-1).clamp(-1, 1)
        power = _spectrum_of_mel(10 ** (LOG_SCALE * features), filters)
        griffin_lim = torchaudio.transforms.GriffinLim(
            self.n_fft,
            n_iter=num_iterations,
            hop_length=self.hop_length,
            power=2.0,
            length=input_features.shape[-1] * self.hop_length,
            rand_init=False,
        ).to(input_features.device)
        return griffin_lim(power).clamp(-1, 1)


def _as_clips(raw_speech) -> list:
    """A list of clips, also of a single one."""
    if not isinstance(raw_speech, (list, tuple)):
        return [raw_speech]
    if len(raw_speech) == 0:
        raise ValueError("Got no sound: an empty list.")
    return [raw_speech] if _is_number(raw_speech) else list(raw_speech)


def _is_number(items) -> bool:
    """Whether a list holds samples, and not clips."""
    return len(items) > 0 and np.ndim(items[0]) == 0 and not _knows_its_rate(items[0])


def _knows_its_rate(clip) -> bool:
    """Whether a clip is a file, or a row of a data set; a waveform says nothing about its rate."""
    return is_media_source(clip) or isinstance(clip, dict)


def _samples_and_rate(clip, sampling_rate: int | None = None):
    """Samples (S,) or (C, S) of any kind of clip, and their rate in Hz; `sampling_rate` is that of a waveform."""
    if is_media_source(clip):
        return read_audio(clip)
    if not isinstance(clip, dict):
        return clip, sampling_rate
    if not {"array", "sampling_rate"} <= clip.keys():
        raise ValueError(f"A dict of sound needs 'array' and 'sampling_rate'; got {', '.join(map(repr, clip))}.")
    return clip["array"], clip["sampling_rate"]


def _as_mono(clip) -> torch.Tensor:
    """(S,) float32 of samples (S,) or (C, S)."""
    samples = clip.detach().cpu().numpy() if isinstance(clip, torch.Tensor) else np.asarray(clip)
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128) / 128  # the only unsigned sample format, with silence at 128
    elif samples.dtype in (np.int8, np.int16, np.int32):
        samples = samples.astype(np.float32) / (np.iinfo(samples.dtype).max + 1)
    elif not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"Expected samples as floats or whole numbers of 8, 16 or 32 bits, got {samples.dtype}.")
    if samples.ndim not in (1, 2) or samples.size == 0:
        raise ValueError(f"Expected sound (samples,) or (channels, samples), got shape {samples.shape}.")
    if samples.ndim == 2:
        samples = samples.mean(axis=0)
    if not np.isfinite(samples).all():
        raise ValueError("The sound holds values that are not finite.")
    return torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32))


__all__ = ["OmniLatentFeatureExtractor", "log_mel"]
