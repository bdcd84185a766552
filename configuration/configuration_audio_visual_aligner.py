"""Configuration of an OmniNet in front of a vision, an audio and perhaps a text tower."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .configuration_omninet import STREAMS, OmniNetConfig
from .known_words import KnownWords


@strict
class AudioVisualAlignerConfig(KnownWords, PreTrainedConfig):
    r"""
    Everything that decides the shape of an [`AudioVisualAligner`].

    Args:
        vision_config (`PreTrainedConfig` or `dict`, *optional*): Of the vision tower. `None`: VideoMAE's defaults.
        audio_config (`PreTrainedConfig` or `dict`, *optional*): Of the audio tower. `None`: AST's defaults.
        text_config (`PreTrainedConfig` or `dict`, *optional*): Of the text tower. `None`: there is none.
        aligner_config (`OmniNetConfig` or `dict`, *optional*): Of the aligner. The widths of the features that come in
            follow from the towers.
        frozen_towers (`list[str]`, *optional*): Which of "vision", "audio" and "text" are not trained.
            `None`: none of them.
        video_fps (`float`, defaults to 8.0): Frames per second of the videos, for which no timestamps are given.
        audio_rate (`float`, *optional*): Positions per second of the audio tower's input. `None`: 16,000 samples of a
            waveform, 100 frames of a spectrogram.

    Raises:
        ValueError: for a config that tells no width, a tower that does not exist, or a rate that is not positive.

    Example:

    ```python
    >>> from transformers import ASTConfig, ViTConfig
    >>> from omnilatent import AudioVisualAlignerConfig

    >>> config = AudioVisualAlignerConfig(
    ...     vision_config=ViTConfig(hidden_size=192, num_hidden_layers=4, num_attention_heads=3, intermediate_size=768),
    ...     audio_config=ASTConfig(hidden_size=384),
    ... )
    >>> config.aligner_config.streams
    {'vision': 192, 'audio': 384}
    ```
    """

    model_type = "audio_visual_aligner"
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="videomae"),
        "audio_config": SubConfigSpec(config_class=AutoConfig, model_type="audio-spectrogram-transformer"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert", optional=True),
        "aligner_config": OmniNetConfig,
    }

    vision_config: PreTrainedConfig | dict | None = None
    audio_config: PreTrainedConfig | dict | None = None
    text_config: PreTrainedConfig | dict | None = None
    aligner_config: PreTrainedConfig | dict | None = None
    frozen_towers: list[Literal["vision", "audio", "text"]] | None = None
    video_fps: float | int = 8.0
    audio_rate: float | int | None = None

    def __post_init__(self, **kwargs):
        self.refuse_unknown_words(kwargs)
        super().__post_init__(**kwargs)
        for name in STREAMS:
            tower = getattr(self, f"{name}_config")
            setattr(self.aligner_config, f"{name}_hidden_size", None if tower is None else feature_size(tower))
        self.frozen_towers = sorted(self.frozen_towers or [])
        self.validate_architecture()

    @property
    def towers(self) -> dict[str, PreTrainedConfig]:
        """The configs of the towers that there are, by modality."""
        configs = {name: getattr(self, f"{name}_config") for name in STREAMS}
        return {name: config for name, config in configs.items() if config is not None}

    def validate_architecture(self):
        """Settings that cannot work together. Runs at construction and before saving."""
        for name in ("video_fps", "audio_rate"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}.")
        absent = set(self.frozen_towers or ()) - set(self.towers)
        if absent:
            raise ValueError(
                f"There is no {' nor '.join(sorted(absent))} tower to freeze: there are {[*self.towers]}."
            )


def feature_size(config: PreTrainedConfig) -> int:
    """Width of the features that a tower of this config gives.

    Raises:
        ValueError: for a config that does not tell.
    """
    if getattr(config, "add_adapter", False):  # wav2vec 2.0's, behind its last layer
        return config.output_hidden_size
    if isinstance(getattr(config, "hidden_size", None), int):
        return config.hidden_size
    if getattr(config, "hidden_sizes", None):  # of a network of stages, the last one's
        return config.hidden_sizes[-1]
    raise ValueError(
        f"{type(config).__name__} tells no width of its features: expected `hidden_size` or `hidden_sizes`. A tower is "
        "the vision, audio or text encoder alone, not a model around several."
    )


__all__ = ["AudioVisualAlignerConfig"]
