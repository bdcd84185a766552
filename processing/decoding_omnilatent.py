"""From what a model produced to text, waveforms, pictures, frames and files."""

from pathlib import Path

import numpy as np
import torch

from .media import write_audio, write_video


class OmniLatentDecoding:
    """The way back of [`OmniLatentProcessor`], on its `tokenizer` and its three other parts."""

    def decode_text(self, token_ids) -> str | list[str]:
        """
        The text that a model wrote: what follows the last target marker, up to EOS; all of it without a marker.

        Args:
            token_ids: Ids (length,) or (batch, length).

        Returns:
            One string, or one for each row; no ids are an empty string.
        """
        is_batch = np.ndim(token_ids) > 1 if len(token_ids) == 0 else np.ndim(token_ids[0]) == 1
        if is_batch:
            return [self.decode_text(row) for row in token_ids]
        token_ids = torch.as_tensor(token_ids)
        markers = torch.tensor(self.tokenizer.convert_tokens_to_ids(list(self._target_markers().values())))
        opened = torch.isin(token_ids.cpu(), markers).nonzero()
        if len(opened):
            token_ids = token_ids[opened[-1, 0] + 1 :]
        ended = (token_ids == self.tokenizer.eos_token_id).nonzero()
        if len(ended):
            token_ids = token_ids[: ended[0, 0]]
        return self.tokenizer.decode(token_ids, skip_special_tokens=True)

    def decode_audio(self, input_features, input_features_mask=None, vocoder=None):
        """
        Sound of mel features, by Griffin-Lim or by a vocoder (see [`OmniLatentFeatureExtractor.to_waveform`]).

        Args:
            input_features: (mel bands, frames), or (batch, mel bands, frames).
            input_features_mask (*optional*): (batch, frames), True on real frames; the rest is cut off.
            vocoder (`Callable`, *optional*): From features to sound.

        Returns:
            `np.ndarray` (samples,) float32 in [-1, 1] at the feature extractor's rate, or a list of them.
        """
        waveform = self.feature_extractor.to_waveform(input_features, vocoder=vocoder).cpu().numpy()
        if np.ndim(input_features) == 2:
            return waveform
        lengths = [waveform.shape[-1]] * len(waveform)
        if input_features_mask is not None:
            lengths = torch.as_tensor(input_features_mask).sum(dim=-1).tolist()
            lengths = [frames * self.feature_extractor.hop_length for frames in lengths]
        return [clip[:length] for clip, length in zip(waveform, lengths)]

    def decode_image(self, pixel_values, pixel_mask=None):
        """
        PIL pictures of pixels in [-1, 1].

        Args:
            pixel_values: (3, H, W), or (batch, 3, H, W).
            pixel_mask (*optional*): (batch, H, W), True on real pixels; the rest is cut off.

        Returns:
            One picture, or a list of them.
        """
        if np.ndim(pixel_values) == 3:
            return self.image_processor.post_process_images(torch.as_tensor(pixel_values)[None])[0]
        return self.image_processor.post_process_images(pixel_values, pixel_mask)

    def decode_video(self, pixel_values_videos, pixel_mask_videos=None):
        """
        Frames of a video in [-1, 1].

        Args:
            pixel_values_videos: (T, 3, H, W), or (batch, T, 3, H, W); channels may also come before the frames.
            pixel_mask_videos (*optional*): (batch, T, H, W), True on real pixels; the rest is cut off.

        Returns:
            `np.ndarray` (T, H, W, 3) uint8, or a list of them.
        """
        pixel_values_videos = torch.as_tensor(pixel_values_videos)
        if pixel_values_videos.ndim in (4, 5) and pixel_values_videos.shape[-3] != 3:
            pixel_values_videos = pixel_values_videos.movedim(-4, -3)
        if pixel_values_videos.ndim == 4:
            return self.video_processor.post_process_videos(pixel_values_videos[None])[0]
        return self.video_processor.post_process_videos(pixel_values_videos, pixel_mask_videos)

    def save_audio(self, path: str | Path, waveform, sampling_rate: int | None = None) -> None:
        """
        Write sound as .wav or .flac.

        Args:
            path: Where to.
            waveform: (samples,) or (channels, samples), float in [-1, 1].
            sampling_rate (`int`, *optional*): In Hz. `None`: the feature extractor's.
        """
        write_audio(path, waveform, sampling_rate or self.feature_extractor.sampling_rate)

    def save_video(
        self, path: str | Path, frames, fps: float | None = None, waveform=None, sampling_rate: int | None = None
    ) -> None:
        """
        Write frames, and their sound where there is one, as .mp4 (or .mkv, .mov): H.264 and AAC.

        Args:
            path: Where to.
            frames: (T, H, W, 3) uint8, or a list of pictures.
            fps (`float`, *optional*): Frames per second. `None`: the video processor's.
            waveform (*optional*): (samples,) or (channels, samples), float in [-1, 1].
            sampling_rate (`int`, *optional*): Of the waveform, in Hz. `None`: the feature extractor's.
        """
        if isinstance(frames, (list, tuple)):
            frames = np.stack([np.asarray(frame) for frame in frames])
        rate = sampling_rate or self.feature_extractor.sampling_rate
        write_video(path, frames, fps or self.video_processor.fps, waveform, rate)
