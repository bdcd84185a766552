"""Configuration of OmniNet, the aligner of vision, audio and text."""

import math
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .known_words import KnownWords
from .size_checks import check_heads_divide, check_positive

STREAMS = ("vision", "audio", "text")


@strict
class OmniNetConfig(KnownWords, PreTrainedConfig):
    r"""
    Everything that decides the shape and the loss of an [`OmniNetModel`].

    Args:
        hidden_size (`int`, defaults to 512): Width of the streams.
        num_hidden_layers (`int`, defaults to 3): Self-attention layers over the query tokens of each stream.
        num_attention_heads (`int`, defaults to 8): Query heads.
        num_key_value_heads (`int`, *optional*): Key and value heads, each shared by a group of query heads.
            `None`: as many as query heads.
        intermediate_size (`int`, *optional*): Width of SwiGLU's hidden layer. `None`: 8/3 of `hidden_size`, rounded up
            to a multiple of 32.
        num_query_tokens (`int`, defaults to 4): Learned queries of each stream that read its features.
        projection_dim (`int`, defaults to 512): Width of the embeddings.
        vision_hidden_size, audio_hidden_size, text_hidden_size (`int`, *optional*, defaults to 768): Width of the
            features of each modality. `None`: the model has no such stream. Two at least are needed. Leave out what the
            data lack: a stream that no step feeds has parameters without gradients, which DistributedDataParallel takes
            for an error.
        attention_dropout (`float`, defaults to 0.0): Dropout on attention weights.
        rms_norm_eps (`float`, defaults to 1e-6): Added to the mean square, or to the variance, in every norm.
        layer_scale_init_value (`float`, defaults to 0.5): Start of the learned factor on each residual branch.
        initializer_range (`float`, *optional*): Standard deviation of the weight initialisation. `None`:
            0.02 * sqrt(768 / `hidden_size`).
        loss (`"info_nce"` or `"sigmoid"`, defaults to `"info_nce"`): Symmetric InfoNCE (CLIP), or a binary
            classification of each pair (SigLIP, Zhai et al. 2023).
        duplicates (`"positive"` or `"ignore"`, defaults to `"positive"`): What samples of equal `sample_ids` are to
            each other: positives, or neither positives nor negatives.
        tiled_loss (`bool`, defaults to `False`): Compute the loss a tile of logits at a time, with memory linear in the
            batch. No logits are returned then.
        gather_loss (`bool`, defaults to `False`): In training contrast across the batches of all ranks.
        logit_scale_init_value (`float`, *optional*): Start of the logarithm of the factor on the cosines, which is
            learned and at most 100. `None`: ln(1 / 0.07) for InfoNCE, ln(10) for sigmoid.
        logit_bias_init_value (`float`, defaults to -10.0): Start of the learned bias of the sigmoid loss.
        time_embedding (`"none"` or `"constrained_rotary"`, defaults to `"none"`): Turn each vision and audio token by
            its timestamp (Constrained Rotary Time Embedding); timestamps are then needed.
        max_time_horizon (`float`, defaults to 64.0): Seconds; timestamps lie in [0, `max_time_horizon`], over which
            the slowest pair turns by half a circle.
        time_resolution (`float`, defaults to 0.05): Seconds over which the fastest pair turns by half a circle.
        temporal_group_duration (`float`, defaults to 1.0): Seconds of a group in `get_omni_sequence` (Temporal
            Embedding Grouping).

    Raises:
        ValueError: for sizes that cannot work together or a misspelt word.

    Example:

    ```python
    >>> from omnilatent import OmniNetConfig, OmniNetModel

    >>> config = OmniNetConfig(hidden_size=64, num_attention_heads=4, audio_hidden_size=128, text_hidden_size=None)
    >>> config.streams
    {'vision': 768, 'audio': 128}
    >>> model = OmniNetModel(config)
    ```
    """

    model_type = "omninet"

    hidden_size: int = 512
    num_hidden_layers: int = 3
    num_attention_heads: int = 8
    num_key_value_heads: int | None = None
    intermediate_size: int | None = None
    num_query_tokens: int = 4
    projection_dim: int = 512
    vision_hidden_size: int | None = 768
    audio_hidden_size: int | None = 768
    text_hidden_size: int | None = 768
    attention_dropout: float | int = 0.0
    rms_norm_eps: float = 1e-6
    layer_scale_init_value: float = 0.5
    initializer_range: float | None = None
    loss: Literal["info_nce", "sigmoid"] = "info_nce"
    duplicates: Literal["positive", "ignore"] = "positive"
    tiled_loss: bool = False
    gather_loss: bool = False
    logit_scale_init_value: float | int | None = None
    logit_bias_init_value: float | int = -10.0
    time_embedding: Literal["none", "constrained_rotary"] = "none"
    max_time_horizon: float | int = 64.0
    time_resolution: float | int = 0.05
    temporal_group_duration: float | int = 1.0

    def __post_init__(self, **kwargs):
        self.refuse_unknown_words(kwargs)
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.intermediate_size is None:
            self.intermediate_size = -(-8 * self.hidden_size // 96) * 32
        if self.initializer_range is None:
            self.initializer_range = 0.02 * (768 / self.hidden_size) ** 0.5
        if self.logit_scale_init_value is None:
            self.logit_scale_init_value = math.log(10) if self.loss == "sigmoid" else math.log(1 / 0.07)
        self.validate_architecture()  # here as well, so that construction raises a plain ValueError
        super().__post_init__(**kwargs)

    @property
    def streams(self) -> dict[str, int]:
        """The modalities that the model has, and the widths of their features."""
        sizes = {name: getattr(self, f"{name}_hidden_size") for name in STREAMS}
        return {name: size for name, size in sizes.items() if size is not None}

    def validate_architecture(self):
        """Sizes that cannot work together. Runs at construction and before saving."""
        check_positive(
            self,
            *("hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size", "num_query_tokens"),
            *("projection_dim", "rms_norm_eps", "initializer_range", "max_time_horizon", "time_resolution"),
            *("temporal_group_duration", *(f"{stream}_hidden_size" for stream in self.streams)),
        )
        if self.num_hidden_layers < 0:
            raise ValueError(f"`num_hidden_layers` must not be negative, got {self.num_hidden_layers}.")
        if len(self.streams) < 2:
            raise ValueError(
                f"Alignment needs two of vision, audio and text, got features of {list(self.streams) or 'none'}."
            )
        check_heads_divide(self)
        if self.num_attention_heads % self.num_key_value_heads != 0:
            raise ValueError(
                f"`num_attention_heads` {self.num_attention_heads} is not divisible by `num_key_value_heads` "
                f"{self.num_key_value_heads}."
            )
        if not 0 <= self.attention_dropout < 1:
            raise ValueError(f"`attention_dropout` must lie in [0, 1), got {self.attention_dropout}.")
        if self.time_embedding != "none" and self.hidden_size % 2 != 0:
            raise ValueError(f"A rotation turns pairs: `hidden_size` must be even, got {self.hidden_size}.")
        if not self.time_resolution <= self.max_time_horizon:
            raise ValueError(
                f"`time_resolution` {self.time_resolution} s is above `max_time_horizon` {self.max_time_horizon} s."
            )

    @classmethod
    def tiny(cls, **kwargs) -> "OmniNetConfig":
        """A model of about a hundred thousand parameters, for tests and examples."""
        return cls(**{**TINY, **kwargs})


TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_query_tokens": 3,
    "projection_dim": 24,
    "vision_hidden_size": 20,
    "audio_hidden_size": 12,
    "text_hidden_size": 28,
}

__all__ = ["OmniNetConfig"]
