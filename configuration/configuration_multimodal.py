"""Configuration of the multimodal task models: two encoders, a fusion and perhaps a decoder."""

import copy
import math
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .configuration_attention import AttentionConfig, check_position
from .known_words import KnownWords
from .size_checks import check_positive

SECOND_MODALITIES = ("image", "audio", "video")
OWN_SIZE = {"text": "vocab_size", "image": "image_size", "audio": "num_mel_bins", "video": "num_frames"}
LATE_FUSIONS = ("gated_sum", "low_rank_tensor")  # of pooled vectors, without layers
TEXT_IDS = 384  # the byte-level tokenizer's 259 ids of text, its special tokens and room for more

Position = Literal["learned", "sinusoidal", "rotary", "relative", "none"]
FeedForward = Literal["standard", "glu", "swiglu"]
Norm = Literal["layer_norm", "rms_norm", "scale_norm"]
Pooling = Literal["attention", "mean", "cls"]


class _Layers(KnownWords, PreTrainedConfig):
    """What encoders, decoders and fusions share: a stack of transformer layers."""

    sub_configs_defaults = {"attention": AttentionConfig}

    def __post_init__(self, **kwargs):
        self.refuse_unknown_words(kwargs)
        super().__post_init__(**kwargs)
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        self.validate_architecture()  # here as well, so that construction raises a plain ValueError

    @property
    def num_attention_heads(self) -> int:
        return self.attention.num_attention_heads

    @property
    def num_key_value_heads(self) -> int:
        return self.attention.num_key_value_heads or self.attention.num_attention_heads

    @property
    def head_dim(self) -> int:
        return self.attention.head_dim or self.hidden_size // self.attention.num_attention_heads

    def validate_architecture(self):
        """Settings that cannot work together. Runs at construction and before saving."""
        check_positive(self, "hidden_size", "intermediate_size", "norm_eps", "initializer_range")
        if self.num_hidden_layers < 0:
            raise ValueError(f"`num_hidden_layers` must not be negative, got {self.num_hidden_layers}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` must lie in [0, 1), got {self.dropout}.")
        if self.attention.head_dim is None and self.hidden_size % self.attention.num_attention_heads != 0:
            raise ValueError(
                f"`hidden_size` {self.hidden_size} is not divisible by `num_attention_heads` "
                f"{self.attention.num_attention_heads}."
            )
        check_position(self.attention, getattr(self, "position", "none"))


@strict
class EncoderConfig(_Layers):
    r"""
    A transformer encoder, and what it reads: exactly the inputs whose size is given. `vocab_size` is text;
    `feature_size` features that something else made; `image_size` pixels, with `num_frames` those of videos;
    `num_mel_bins` spectrograms. Features may come beside one of the others.

    Args:
        hidden_size (`int`, defaults to 512): Width of the layers.
        num_hidden_layers (`int`, defaults to 6): Layers.
        intermediate_size (`int`, *optional*): Width inside the feed-forwards. `None`: 4 * `hidden_size`.
        attention (`AttentionConfig` or `dict`, *optional*): Kind and heads of the attention.
        position (`str`, defaults to `"learned"`): `"learned"` or `"sinusoidal"` vectors are added to the tokens,
            `"rotary"` turns queries and keys, `"relative"` joins the scores; or `"none"`.
        feed_forward (`"standard"`, `"glu"` or `"swiglu"`, defaults to `"standard"`): Kind of the feed-forwards.
        norm (`"layer_norm"`, `"rms_norm"` or `"scale_norm"`, defaults to `"layer_norm"`): Kind of the norms.
        norm_eps (`float`, defaults to 1e-6): Added to the variance in every norm.
        hidden_act (`str`, defaults to `"gelu"`): Activation of the feed-forwards.
        dropout (`float`, defaults to 0.0): On the embeddings and inside the feed-forwards.
        initializer_range (`float`, defaults to 0.02): Standard deviation of the weight initialisation.
        max_position_embeddings (`int`, defaults to 512): Most tokens of a text, or of given features or sound.
        use_class_token (`bool`, defaults to `False`): Put a learned token before all others.
        vocab_size (`int`, *optional*): Ids of text.
        feature_size (`int`, *optional*): Width of given features.
        image_size (`int`, *optional*): Pixels of a side of pictures, which are square.
        patch_size (`int`, defaults to 16): Pixels of a side of a patch, which is one token.
        num_channels (`int`, defaults to 3): Colour channels.
        num_frames (`int`, *optional*): Frames of a video. `None`: pictures.
        tubelet_size (`int`, defaults to 2): Frames of a token of a video.
        num_mel_bins (`int`, *optional*): Bands of spectrograms; four of their frames make a token.

    Raises:
        ValueError: for an encoder that reads two things, and sizes that do not fit.

    Example:

    ```python
    >>> from omnilatent import EncoderConfig

    >>> EncoderConfig(image_size=64, patch_size=8, hidden_size=96, attention={"num_attention_heads": 4}).num_tokens
    64
    ```
    """

    model_type = "multimodal_encoder"

    hidden_size: int = 512
    num_hidden_layers: int = 6
    intermediate_size: int | None = None
    attention: PreTrainedConfig | dict | None = None
    position: Position = "learned"
    feed_forward: FeedForward = "standard"
    norm: Norm = "layer_norm"
    norm_eps: float = 1e-6
    hidden_act: str = "gelu"
    dropout: float | int = 0.0
    initializer_range: float | int = 0.02
    max_position_embeddings: int = 512
    use_class_token: bool = False
    vocab_size: int | None = None
    feature_size: int | None = None
    image_size: int | None = None
    patch_size: int = 16
    num_channels: int = 3
    num_frames: int | None = None
    tubelet_size: int = 2
    num_mel_bins: int | None = None

    @property
    def modality(self) -> str | None:
        """What is read beside features: text, image, audio or video."""
        if self.vocab_size is not None:
            return "text"
        if self.num_mel_bins is not None:
            return "audio"
        if self.image_size is not None:
            return "image" if self.num_frames is None else "video"
        return None

    @property
    def grid(self) -> tuple[int, ...]:
        """Tokens along each axis of a picture or a video."""
        side = self.image_size // self.patch_size
        return (side, side) if self.num_frames is None else (self.num_frames // self.tubelet_size, side, side)

    @property
    def patch_shape(self) -> tuple[int, ...]:
        """Pixels, and frames, of a token along each axis."""
        frames = () if self.num_frames is None else (self.tubelet_size,)
        return *frames, self.patch_size, self.patch_size

    @property
    def num_tokens(self) -> int:
        """Most tokens that are read, without the class token."""
        if self.image_size is None:
            return self.max_position_embeddings
        patches = math.prod(self.grid)
        return patches if self.feature_size is None else max(patches, self.max_position_embeddings)

    def validate_architecture(self):
        super().validate_architecture()
        sizes = ("vocab_size", "feature_size", "image_size", "num_frames", "num_mel_bins")
        given = [name for name in sizes if getattr(self, name) is not None]
        check_positive(self, *given, "max_position_embeddings", "patch_size", "num_channels", "tubelet_size")
        own = [name for name in given if name not in ("feature_size", "num_frames")]
        if len(own) > 1:
            raise ValueError(
                f"An encoder reads one kind of input, but {' and '.join(f'`{n}`' for n in own)} are given."
            )
        if self.position == "relative" and self.feature_size is not None and self.image_size is not None:
            raise ValueError(
                "Pixels have places on a grid and features in a row: `position` 'relative' needs one of them."
            )
        if self.image_size is not None and self.image_size % self.patch_size != 0:
            raise ValueError(f"`image_size` {self.image_size} is not divisible by `patch_size` {self.patch_size}.")
        if self.num_frames is not None and self.num_frames % self.tubelet_size != 0:
            raise ValueError(f"`num_frames` {self.num_frames} is not divisible by `tubelet_size` {self.tubelet_size}.")


@strict
class DecoderConfig(_Layers):
    r"""
    A causal transformer decoder of text, which attends to what the encoders made.

    Args:
        vocab_size (`int`, defaults to 384): Ids of text.
        pad_token_id, bos_token_id, eos_token_id (`int`, default to 0, 1 and 2): Ids of padding, begin and end.
        use_cache (`bool`, defaults to `True`): Keep keys and values while generating.
        hidden_size, num_hidden_layers, intermediate_size, attention, position, feed_forward, norm, norm_eps,
            hidden_act, dropout, initializer_range, max_position_embeddings: as in [`EncoderConfig`].

    Raises:
        ValueError: for a kind of attention that cannot keep a cache, and sizes that do not fit.

    Example:

    ```python
    >>> from omnilatent import DecoderConfig

    >>> DecoderConfig(hidden_size=96, attention={"num_attention_heads": 4}).head_dim
    24
    ```
    """

    model_type = "multimodal_decoder"
    keys_to_ignore_at_inference = ["past_key_values"]

    hidden_size: int = 512
    num_hidden_layers: int = 6
    intermediate_size: int | None = None
    attention: PreTrainedConfig | dict | None = None
    position: Position = "learned"
    feed_forward: FeedForward = "standard"
    norm: Norm = "layer_norm"
    norm_eps: float = 1e-6
    hidden_act: str = "gelu"
    dropout: float | int = 0.0
    initializer_range: float | int = 0.02
    max_position_embeddings: int = 512
    vocab_size: int = TEXT_IDS
    pad_token_id: int = 0
    bos_token_id: int = 1
    eos_token_id: int = 2
    use_cache: bool = True

    def validate_architecture(self):
        super().validate_architecture()
        check_positive(self, "vocab_size", "max_position_embeddings")
        if self.attention.kind != "multi_head":
            raise ValueError(
                f"A decoder attends to the keys of its cache one by one: `attention.kind` must be 'multi_head', got "
                f"{self.attention.kind!r}."
            )
        if self.position == "relative":
            raise ValueError("A decoder's `position` is 'learned', 'sinusoidal', 'rotary' or 'none', got 'relative'.")


@strict
class FusionConfig(_Layers):
    r"""
    How two streams of tokens become one, and how tokens become one vector.

    Args:
        kind (`str`, defaults to `"concatenation"`): `"concatenation"`: joint self-attention over the tokens of both
            (Chen et al. 2020, UNITER). `"co_attention"`: each stream attends to the other (Lu et al. 2019, ViLBERT).
            `"bottleneck"`: streams exchange through a few tokens (Nagrani et al. 2021). `"gated_sum"`: a gate weighs
            two pooled vectors (Arevalo et al. 2017). `"low_rank_tensor"`: the outer product of two pooled vectors,
            in low rank (Liu et al. 2018).
        pooling (`"attention"`, `"mean"` or `"cls"`, defaults to `"attention"`): How tokens become one vector: read by a
            learned query, averaged, or the first one.
        num_bottleneck_tokens (`int`, defaults to 4): Tokens of the bottleneck.
        rank (`int`, defaults to 16): Rank of the tensor fusion.
        hidden_size, num_hidden_layers, intermediate_size, attention, feed_forward, norm, norm_eps, hidden_act, dropout,
            initializer_range: as in [`EncoderConfig`]. `num_hidden_layers` defaults to 2; `"gated_sum"` and
            `"low_rank_tensor"` have no layers.

    Example:

    ```python
    >>> from omnilatent import FusionConfig

    >>> FusionConfig(kind="bottleneck", num_bottleneck_tokens=8).pooling
    'attention'
    ```
    """

    model_type = "multimodal_fusion"

    kind: Literal["concatenation", "gated_sum", "co_attention", "bottleneck", "low_rank_tensor"] = "concatenation"
    pooling: Pooling = "attention"
    num_bottleneck_tokens: int = 4
    rank: int = 16
    hidden_size: int = 512
    num_hidden_layers: int = 2
    intermediate_size: int | None = None
    attention: PreTrainedConfig | dict | None = None
    feed_forward: FeedForward = "standard"
    norm: Norm = "layer_norm"
    norm_eps: float = 1e-6
    hidden_act: str = "gelu"
    dropout: float | int = 0.0
    initializer_range: float | int = 0.02

    def validate_architecture(self):
        super().validate_architecture()
        check_positive(self, "num_bottleneck_tokens", "rank")
        if self.num_hidden_layers == 0 and self.kind not in LATE_FUSIONS:
            raise ValueError(
                f"`num_hidden_layers` is 0, but fusion of kind {self.kind!r} mixes the streams in its layers: at least one "
                f"is needed. {' and '.join(map(repr, LATE_FUSIONS))} have none."
            )
        if self.attention.kind == "sparse":
            raise ValueError(
                "Tokens of two streams are no neighbours, which sparse attention looks for: a fusion's `attention.kind` is "
                "'multi_head', 'linear' or 'performer'."
            )


@strict
class MultiModalConfig(KnownWords, PreTrainedConfig):
    r"""
    Everything that decides the shape of a [`MultiModalTransformer`] and of the task models around it: text and one
    second modality, which is an image, audio or video.

    Args:
        text_config (`EncoderConfig`, any text model's config or `dict`, *optional*): The text encoder. `None`: a
            byte-level [`EncoderConfig`].
        image_config, audio_config, video_config (`EncoderConfig`, any config of such a model or `dict`, *optional*):
            The second encoder; give one of them. None of them: pictures of 224 pixels.
        fusion (`FusionConfig` or `dict`, *optional*): How they are joined, and how tokens are pooled.
        decoder_config (`DecoderConfig` or `dict`, *optional*): What writes text, or pictures, in the models that do.
        projection_dim (`int`, defaults to 256): Width of the embeddings that retrieval compares.
        scoring (`"dual"` or `"cross"`, defaults to `"dual"`): Whether retrieval compares embeddings alone, or also
            reads pairs together (Li et al. 2021, ALBEF).
        contrastive_loss (`"info_nce"` or `"sigmoid"`, defaults to `"info_nce"`): The contrast of retrieval.
        duplicates (`"positive"` or `"ignore"`, defaults to `"positive"`): What pairs of equal `sample_ids` are to each
            other.
        logit_scale_init_value (`float`, defaults to 2.6592): Logarithm of the factor on the cosines at the start.
        logit_bias_init_value (`float`, defaults to -10.0): Added to scaled cosines by the sigmoid loss, at the start.
        matching_loss_weight (`float`, defaults to 1.0): Weight of the cross encoder's loss beside the contrast.
        tie_word_embeddings (`bool`, defaults to `True`): Use the decoder's embeddings as its output layer.
        classifier_dropout (`float`, defaults to 0.0): Before the last layer of classifiers.
        initializer_range (`float`, defaults to 0.02): Standard deviation of the weight initialisation.

    Raises:
        ValueError: for two second modalities, sizes that cannot work together, or a misspelt setting.

    Example:

    ```python
    >>> from omnilatent import MultiModalConfig

    >>> config = MultiModalConfig.from_preset("tiny_text_image_model", num_labels=5)
    >>> config.second_modality, config.image_config.num_tokens, config.fusion.kind
    ('image', 36, 'concatenation')
    ```
    """

    model_type = "multimodal"
    keys_to_ignore_at_inference = ["past_key_values"]
    sub_configs_defaults = {
        "text_config": SubConfigSpec(AutoConfig, EncoderConfig.model_type, init_kwargs={"vocab_size": TEXT_IDS}),
        "image_config": SubConfigSpec(AutoConfig, EncoderConfig.model_type, optional=True),
        "audio_config": SubConfigSpec(AutoConfig, EncoderConfig.model_type, optional=True),
        "video_config": SubConfigSpec(AutoConfig, EncoderConfig.model_type, optional=True),
        "fusion": FusionConfig,
        "decoder_config": SubConfigSpec(DecoderConfig, optional=True),
    }

    text_config: PreTrainedConfig | dict | None = None
    image_config: PreTrainedConfig | dict | None = None
    audio_config: PreTrainedConfig | dict | None = None
    video_config: PreTrainedConfig | dict | None = None
    fusion: PreTrainedConfig | dict | None = None
    decoder_config: PreTrainedConfig | dict | None = None
    projection_dim: int = 256
    scoring: Literal["dual", "cross"] = "dual"
    contrastive_loss: Literal["info_nce", "sigmoid"] = "info_nce"
    duplicates: Literal["positive", "ignore"] = "positive"
    logit_scale_init_value: float | int = 2.6592
    logit_bias_init_value: float | int = -10.0
    matching_loss_weight: float | int = 1.0
    tie_word_embeddings: bool = True
    classifier_dropout: float | int = 0.0
    initializer_range: float | int = 0.02

    def __post_init__(self, **kwargs):
        self.refuse_unknown_words(kwargs)
        given = [name for name in SECOND_MODALITIES if getattr(self, f"{name}_config") is not None]
        if not given:
            self.image_config = {"image_size": 224}
        super().__post_init__(**kwargs)
        if self.fusion.pooling == "cls":
            for name, encoder in self.encoders.items():
                if isinstance(encoder, EncoderConfig) and not encoder.use_class_token:
                    encoder = copy.deepcopy(encoder)  # it may be the config of an encoder that is there already
                    encoder.use_class_token = True
                    setattr(self, f"{name}_config", encoder)
        self.validate_architecture()

    @property
    def second_modality(self) -> str:
        """`"image"`, `"audio"` or `"video"`."""
        return next(name for name in SECOND_MODALITIES if getattr(self, f"{name}_config") is not None)

    @property
    def second_config(self) -> PreTrainedConfig:
        return getattr(self, f"{self.second_modality}_config")

    @property
    def encoders(self) -> dict[str, PreTrainedConfig]:
        """The configs of both encoders, by modality, text first."""
        return {"text": self.text_config, self.second_modality: self.second_config}

    @property
    def hidden_size(self) -> int:
        """Width of the fused tokens."""
        return self.fusion.hidden_size

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The decoder's config, where a decoder writes the text and the encoder is not asked for; else the text encoder's."""
        writes = self.is_encoder_decoder and not encoder
        return self.decoder_config if self.decoder_config is not None and (decoder or writes) else self.text_config

    def validate_architecture(self):
        """Settings that cannot work together. Runs at construction and before saving."""
        given = [name for name in SECOND_MODALITIES if getattr(self, f"{name}_config") is not None]
        if len(given) != 1:
            names = " and ".join(f"`{name}_config`" for name in given)
            raise ValueError(f"There is one second modality beside text, but {names} are given.")
        for name, encoder in self.encoders.items():
            if not isinstance(encoder, EncoderConfig):
                continue
            if encoder.modality not in (name, None):
                raise ValueError(f"`{name}_config` is of an encoder that reads {encoder.modality}, not {name}.")
            if encoder.modality is None and encoder.feature_size is None:
                raise ValueError(
                    f"The encoder of `{name}_config` reads nothing: give `{OWN_SIZE[name]}` or `feature_size`."
                )
        check_positive(self, "projection_dim", "initializer_range")
        if self.matching_loss_weight < 0:
            raise ValueError(f"`matching_loss_weight` must not be negative, got {self.matching_loss_weight}.")
        if not 0 <= self.classifier_dropout < 1:
            raise ValueError(f"`classifier_dropout` must lie in [0, 1), got {self.classifier_dropout}.")

    @classmethod
    def from_preset(cls, preset: str, **settings) -> "MultiModalConfig":
        """
        The config in a JSON file.

        Args:
            preset: Path of a file, or the name of a preset of ours, with or without ".json":
                `omnilatent.configuration.multimodal_presets.list_presets()`.
            settings: Put in the file's place.
        """
        from .multimodal_presets import load_preset

        return load_preset(preset, **settings)

    @classmethod
    def tiny(cls, **settings) -> "MultiModalConfig":
        """A model of about half a million parameters, for tests and examples."""
        return cls.from_preset("tiny_text_image_model", **settings)


ModelConfig = MultiModalConfig  # the specification's other name

__all__ = ["DecoderConfig", "EncoderConfig", "FusionConfig", "ModelConfig", "MultiModalConfig"]
