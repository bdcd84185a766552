"""OmniNet in front of towers: videos, sounds and texts to embeddings in one space.

Shapes: B batch, T frames, L positions in time of a tower's input, S tokens, P projection size.
"""

import contextlib
import os

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import auto_docstring, can_return_tuple

from ...configuration.configuration_audio_visual_aligner import AudioVisualAlignerConfig
from ...configuration.configuration_omninet import STREAMS, OmniNetConfig
from ..known_kernels import KnowsItsKernels
from ..known_keywords import knows_its_keywords
from ..towers.tower_tokens import TowerTokens, read_audio, read_text, read_vision
from ..towers.towers import SavesOwnNames, make_tower, open_tower
from .modeling_omninet import OmniNetModel, OmniNetOutput

WAVEFORM_RATE, SPECTROGRAM_RATE = 16_000, 100  # positions per second


@auto_docstring(
    custom_intro="""
    An [`OmniNetModel`] that reads the tokens of any vision, audio and text tower of transformers, frozen or trained
    with it.
    """
)
class AudioVisualAligner(SavesOwnNames, KnowsItsKernels, PreTrainedModel):
    r"""
    ```python
    >>> import torch
    >>> from transformers import VideoMAEConfig, Wav2Vec2Config
    >>> from omnilatent import AudioVisualAligner

    >>> sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    >>> model = AudioVisualAligner.from_towers(
    ...     vision=VideoMAEConfig(image_size=32, num_frames=4, **sizes),  # or a model, or "MCG-NJU/videomae-base"
    ...     audio=Wav2Vec2Config(**sizes),  # or a model, or "facebook/wav2vec2-base"
    ...     freeze=False,
    ...     hidden_size=48,
    ...     num_attention_heads=4,
    ...     projection_dim=24,
    ... )
    >>> videos, sounds = torch.randn(3, 4, 3, 32, 32), torch.randn(3, 8000)
    >>> model(pixel_values_videos=videos, input_values=sounds).loss.backward()
    >>> model.encode_video(videos).shape, model.encode_audio(sounds).shape
    (torch.Size([3, 24]), torch.Size([3, 24]))
    ```
    """

    config: AudioVisualAlignerConfig
    config_class = AudioVisualAlignerConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values_videos"
    input_modalities = ("video", "audio", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    accepts_loss_kwargs = False  # our loss is a mean over the micro-batch: Trainer averages the micro-batches

    def __init__(self, config: AudioVisualAlignerConfig, towers: dict[str, PreTrainedModel] | None = None):
        r"""
        towers (`dict[str, PreTrainedModel]`, *optional*):
            Towers that are there already, by modality; those that are not are made from the config.
        """
        super().__init__(config)
        given = towers or {}
        for name, part in config.towers.items():
            # attributes and no ModuleDict: transformers looks for tied weights in direct children
            setattr(self, f"{name}_tower", given.get(name) or make_tower(part, name))
        self.aligner = OmniNetModel(config.aligner_config)
        self.post_init()
        self.train(self.training)

    @property
    def towers(self) -> dict[str, PreTrainedModel]:
        """The towers by modality."""
        return {name: getattr(self, f"{name}_tower") for name in self.config.towers}

    @classmethod
    def from_towers(
        cls,
        vision: PreTrainedModel | PreTrainedConfig | str | os.PathLike,
        audio: PreTrainedModel | PreTrainedConfig | str | os.PathLike,
        text: PreTrainedModel | PreTrainedConfig | str | os.PathLike | None = None,
        freeze: bool | dict[str, bool] = True,
        video_fps: float = 8.0,
        audio_rate: float | None = None,
        **omninet_settings,
    ) -> "AudioVisualAligner":
        """
        Put a new aligner in front of towers.

        Args:
            vision, audio, text: A model that has such an encoder, which is taken out of it; the name of one on the Hub
                or a folder; or a config, for a tower with new weights.
            freeze: Which towers keep their weights and stay in evaluation mode: all, none, or by modality, as in
                `{"vision": True, "audio": False}`. A tower that is not named is trained.
            video_fps, audio_rate: As in [`AudioVisualAlignerConfig`].
            omninet_settings: As in [`OmniNetConfig`], without the widths of the features.

        Raises:
            ValueError: for what is no tower of its modality, a modality to freeze that is not there, and settings that
                do not exist.
        """
        given = {"vision": vision, "audio": audio, "text": text}
        towers = {name: open_tower(tower, name) for name, tower in given.items() if tower is not None}
        if not isinstance(freeze, dict):
            freeze = dict.fromkeys(towers, freeze)
        unknown = set(freeze) - set(towers)
        if unknown:
            raise ValueError(f"There is no {', '.join(sorted(unknown))} tower to freeze: there are {[*towers]}.")
        sizes = {f"{name}_hidden_size": 1 if name in towers else None for name in STREAMS}  # the towers tell them
        for name in sizes.keys() & omninet_settings.keys():
            raise ValueError(f"`{name}` is the tower's, which tells it.")
        config = AudioVisualAlignerConfig(
            **{f"{name}_config": tower.config for name, tower in towers.items()},
            aligner_config=OmniNetConfig(**sizes, **omninet_settings),
            frozen_towers=[name for name, frozen in freeze.items() if frozen],
            # a config hands its own down to its parts, but a tower has one already
            attn_implementation={
                f"{name}_config": tower.config._attn_implementation for name, tower in towers.items()
            },
            video_fps=video_fps,
            audio_rate=audio_rate,
        )
        return cls(config, towers)

    def train(self, mode: bool = True):
        """As in torch; frozen towers stay frozen and in evaluation mode."""
        super().train(mode)
        for name in self.config.frozen_towers:
            self.towers[name].requires_grad_(False).eval()  # loading makes parameters that ask for gradients
        return self

    @knows_its_keywords
    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        pixel_values_videos: torch.FloatTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        input_features: torch.FloatTensor | None = None,
        input_values: torch.FloatTensor | None = None,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        vision_attention_mask: torch.Tensor | None = None,
        audio_attention_mask: torch.Tensor | None = None,
        vision_timestamps: torch.FloatTensor | None = None,
        vision_present: torch.BoolTensor | None = None,
        audio_present: torch.BoolTensor | None = None,
        text_present: torch.BoolTensor | None = None,
        sample_ids: torch.LongTensor | None = None,
        return_loss: bool = True,
        **kwargs,
    ) -> OmniNetOutput:
        r"""
        pixel_values_videos (`torch.FloatTensor` of shape `(batch_size, num_frames, num_channels, height, width)`, *optional*):
            Videos as the vision tower reads them, or images without the axis of frames. An image tower gets the frames
            one by one.
        pixel_values (`torch.FloatTensor` of the shape of `pixel_values_videos`, *optional*):
            The same by its other name: give one of them.
        input_features (`torch.FloatTensor`, *optional*):
            Sounds as the audio tower reads them: spectrograms, or waveforms of shape `(batch_size, num_samples)`.
        input_values (`torch.FloatTensor`, *optional*):
            The same by its other name: give one of them.
        input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
            Texts, if there is a text tower.
        attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
            1 for real tokens of `input_ids`.
        vision_attention_mask (`torch.Tensor` of shape `(batch_size, num_frames)`, *optional*):
            1 for real frames.
        audio_attention_mask (`torch.Tensor` of shape `(batch_size, num_samples)` or `(batch_size, num_spectrogram_frames)`, *optional*):
            1 for real samples, or frames of the spectrogram.
        vision_timestamps (`torch.FloatTensor` of shape `(batch_size, num_frames)`, *optional*):
            Seconds of each frame, for the aligner's time embedding. By default frames follow each other at
            `config.video_fps`.
        vision_present (`torch.BoolTensor` of shape `(batch_size,)`, *optional*):
            False for a sample that lacks the modality: it takes no part in that modality's pairs.
        audio_present (`torch.BoolTensor` of shape `(batch_size,)`, *optional*):
            The same of audio.
        text_present (`torch.BoolTensor` of shape `(batch_size,)`, *optional*):
            The same of text.
        sample_ids (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
            Equal numbers mark the same sample.
        return_loss (`bool`, defaults to `True`):
            Compute the loss, where there are two modalities.
        """
        read = self.get_tower_tokens(
            pixel_values_videos=pixel_values_videos,
            pixel_values=pixel_values,
            input_features=input_features,
            input_values=input_values,
            input_ids=input_ids,
            attention_mask=attention_mask,
            vision_attention_mask=vision_attention_mask,
            audio_attention_mask=audio_attention_mask,
        )
        present = {"vision": vision_present, "audio": audio_present, "text": text_present}
        inputs = {}
        for name, tokens in read.items():
            inputs[f"{name}_features"] = tokens.features
            inputs[f"{name}_attention_mask"] = tokens.attention_mask
            inputs[f"{name}_timestamps"] = self._timestamps(name, tokens, vision_timestamps)
            inputs[f"{name}_present"] = present[name]
        kwargs["return_dict"] = True  # `can_return_tuple` makes the tuple
        return self.aligner(**inputs, sample_ids=sample_ids, return_loss=return_loss, **kwargs)

    # --- one modality --------------------------------------------------------------------------------------------

    def encode_video(
        self,
        pixel_values_videos: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        timestamps: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Embeddings (B, P) of norm 1 of videos, or of images; the arguments as `forward`'s of vision."""
        read = self.get_tower_tokens(pixel_values_videos=pixel_values_videos, vision_attention_mask=attention_mask)
        return self._embed("vision", read["vision"], timestamps)

    def encode_audio(self, audio: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Embeddings (B, P) of norm 1 of sounds; the arguments as `forward`'s of audio."""
        return self._embed(
            "audio", self.get_tower_tokens(input_values=audio, audio_attention_mask=attention_mask)["audio"]
        )

    def encode_text(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Embeddings (B, P) of norm 1 of texts."""
        return self._embed("text", self.get_tower_tokens(input_ids=input_ids, attention_mask=attention_mask)["text"])

    @torch.no_grad()
    def center_on(self, **inputs):
        """`OmniNetModel.center_on` on a batch: call it once before training, most of all where towers are frozen.

        Args:
            inputs: `forward`'s inputs and masks.
        """
        was_training = self.training
        self.eval()  # without dropout
        words = {}
        for name, tokens in self.get_tower_tokens(**inputs).items():
            words |= {f"{name}_features": tokens.features, f"{name}_attention_mask": tokens.attention_mask}
        self.aligner.center_on(**words)
        self.train(was_training)

    # --- its parts -----------------------------------------------------------------------------------------------

    def get_tower_tokens(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        input_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        vision_attention_mask: torch.Tensor | None = None,
        audio_attention_mask: torch.Tensor | None = None,
    ) -> dict[str, TowerTokens]:
        """Tokens of the towers, by modality, of what is given; the arguments as in `forward`.

        Raises:
            ValueError: for a modality that has no tower, and shapes that do not fit.
        """
        given = {
            "vision": (
                read_vision,
                _one_of(pixel_values_videos=pixel_values_videos, pixel_values=pixel_values),
                vision_attention_mask,
            ),
            "audio": (
                read_audio,
                _one_of(input_features=input_features, input_values=input_values),
                audio_attention_mask,
            ),
            "text": (read_text, input_ids, attention_mask),
        }
        read = {}
        for name, (reader, values, mask) in given.items():
            if values is None:
                continue
            if name not in self.towers:
                raise ValueError(f"The model has no {name} tower: there are {', '.join(self.towers)}.")
            frozen = name in self.config.frozen_towers
            with torch.no_grad() if frozen else contextlib.nullcontext():
                read[name] = reader(self.towers[name], values, mask)
        return read

    def _embed(self, name, tokens, timestamps=None):
        times = self._timestamps(name, tokens, timestamps)
        return self.aligner.embed(name, tokens.features, tokens.attention_mask, times)

    def _timestamps(self, name, tokens, vision_timestamps=None):
        """Seconds (B, S) of the tokens, if the aligner wants them; texts have no times."""
        if self.config.aligner_config.time_embedding == "none" or name == "text":
            return None
        if name == "audio":
            return tokens.timestamps(self.audio_rate)
        if vision_timestamps is None:
            return tokens.timestamps(self.config.video_fps)
        expected = (len(tokens.features), tokens.length)
        if vision_timestamps.shape != expected:
            raise ValueError(
                f"`vision_timestamps` must have the shape {expected}, got {tuple(vision_timestamps.shape)}."
            )
        return tokens.timestamps_of(vision_timestamps)

    @property
    def audio_rate(self) -> float:
        """Positions per second of the audio tower's input."""
        if self.config.audio_rate is not None:
            return self.config.audio_rate
        return WAVEFORM_RATE if hasattr(self.config.audio_config, "conv_stride") else SPECTROGRAM_RATE


def _one_of(**values):
    """The value that is given under one of several names."""
    given = {name: value for name, value in values.items() if value is not None}
    if len(given) > 1:
        raise ValueError(f"{' and '.join(f'`{name}`' for name in given)} are the same input: give one of them.")
    return next(iter(given.values()), None)


__all__ = ["AudioVisualAligner"]
