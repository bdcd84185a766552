"""Configuration of OmniLatent, the any-to-any model of text, audio, images and video."""

from typing import ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .known_words import KnownWords
from .modalities import SPECIAL_TOKENS
from .size_checks import check_positive

# Placeholder ids start this far above the vocabulary, so that `resize_token_embeddings` never runs into them.
ROOM_FOR_ADDED_TOKENS = 1024


@strict
class OmniLatentConfig(KnownWords, PreTrainedConfig):
    r"""
    Everything that decides the shape and the losses of an [`OmniLatentModel`]. The defaults are the model of about
    140 million parameters; `OmniLatentConfig.tiny()`, `.base()` and `.large()` are the presets.

    Args:
        vocab_size (`int`, defaults to 32000): Text tokens. Placeholder ids follow them, see `special_token_offset`.
        text_vocab_size (`int`, *optional*): Number of ids the tokenizer knows; `generate` emits none above it.
            `None`: all `vocab_size`.
        hidden_size (`int`, defaults to 768): Width of the backbone. Also accepted as `hidden_dim`.
        intermediate_size (`int`, *optional*): Width of SwiGLU's hidden layer. `None`: 3.5 * `hidden_size`.
        num_hidden_layers (`int`, defaults to 12): Backbone layers. Also accepted as `num_layers`.
        num_attention_heads (`int`, defaults to 12): Query heads. Also accepted as `num_heads`.
        num_key_value_heads (`int`, *optional*): Key and value heads, each shared by a group of query heads.
            `None`: as many as query heads.
        head_dim (`int`, *optional*): Width of a head, even. `None`: `hidden_size / num_attention_heads`.
        rms_norm_eps (`float`, defaults to 1e-6): Added to the mean square in every RMSNorm.
        rope_theta (`float`, defaults to 100): Base of the rotary frequencies. A picture has a dozen rows, not
            thousands: with 10000 most pairs would hardly turn, and a slot would find its patch late.
        layer_scale_init_value (`float`, defaults to 0.5): Start of the learned factor on each residual branch, so
            that the first layer does not dominate the residual stream.
        attention_dropout (`float`, defaults to 0.0): Dropout on attention weights.
        initializer_range (`float`, *optional*): Standard deviation of the weight initialisation. `None`: 0.02 at the
            default width, and more for narrower models, 0.02 * sqrt(768 / `hidden_size`), so that a layer's output
            has one scale whatever its width.
        max_text_length (`int`, defaults to 2048): Most text tokens in one source or target.
        num_mel_bins (`int`, defaults to 128): Mel bands of `input_features`.
        sampling_rate (`int`, defaults to 16000): Samples per second (Hz) of the audio behind the mel spectrogram.
        hop_length (`int`, defaults to 160): Samples between two mel frames.
        max_audio_frames (`int`, defaults to 3000): Most mel frames of one source or target (30 s).
        audio_target_length (`int`, defaults to 200): Mel frames of an audio target whose length is not given (2 s).
        num_channels (`int`, defaults to 3): Colour channels of images and video.
        image_size (`int`, defaults to 224): Pixels per side of an image target whose size is not given.
        image_patch_size (`int`, defaults to 16): Pixels per side of an image patch, which is one token.
        max_image_size (`int`, defaults to 1024): Most pixels per side.
        video_size (`int`, defaults to 112): Pixels per side of a video target whose size is not given.
        video_patch_size (`int`, defaults to 16): Pixels per side of a video tube.
        video_tubelet_size (`int`, defaults to 4): Frames of a video tube, which is one token.
        num_frames (`int`, defaults to 16): Frames of a video target whose length is not given.
        max_frames (`int`, defaults to 128): Most frames of one source or target.
        video_fps (`float`, defaults to 8.0): Frames per second; puts video tokens and audio tokens on one clock.
        vision_encoder_layers (`int`, defaults to 0): Layers of a ViT with relative position bias ([`RelPosViTModel`])
            between the patches of pictures, and between the tubes of videos, before the backbone reads them. 0: patches
            and tubes are projected only.
        sequence_adaptation (`"queries"` or `"interpolate"`, defaults to `"queries"`): What a target slot starts
            from: a learned query, or the source tokens resampled to the target's length (the specification's way).
        text_loss_weight, audio_loss_weight, image_loss_weight, video_loss_weight (`float`, defaults to 1.0): Fixed
            factor of each modality's loss.
        learn_loss_weights (`bool`, defaults to `True`): Weigh the modalities by learned uncertainty as well
            (Kendall et al. 2018, section 3.2).
        contrastive_loss_weight (`float`, defaults to 0.1): Weight of the symmetric InfoNCE between source and target
            embeddings across the batch; 0 leaves it out.
        projection_size (`int`, *optional*): Width of those embeddings. `None`: `hidden_size`.
        logit_scale_init_value (`float`, defaults to 2.6592): Start of the logarithm of the contrastive scale;
            ln(1 / 0.07).
        ctc_loss_weight (`float`, defaults to 0.0): Weight of the CTC loss that trains the direct text readout at
            the source positions; 0 leaves that readout untrained.
        special_token_offset (`int`, *optional*): Id of the first placeholder token. `None`: `vocab_size` + 1024, which
            leaves room for tokens that are added to the tokenizer later.

    Raises:
        ValueError: for sizes that cannot work together, a misspelt word, or a setting that belongs to
            `TrainingArguments`.

    Example:

    ```python
    >>> from omnilatent import OmniLatentConfig, OmniLatentModel

    >>> config = OmniLatentConfig(hidden_dim=128, num_layers=4, num_heads=4)
    >>> config.hidden_size
    128
    >>> model = OmniLatentModel(config)
    ```
    """

    model_type = "omnilatent"
    keys_to_ignore_at_inference = ["past_key_values", "losses"]
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_dim": "hidden_size",
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
    }

    vocab_size: int = 32000
    text_vocab_size: int | None = None
    hidden_size: int = 768
    intermediate_size: int | None = None
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    rms_norm_eps: float = 1e-6
    rope_theta: float | int = 100.0
    layer_scale_init_value: float = 0.5
    attention_dropout: float | int = 0.0
    initializer_range: float | None = None
    max_text_length: int = 2048
    use_cache: bool = True
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2

    num_mel_bins: int = 128
    sampling_rate: int = 16000
    hop_length: int = 160
    max_audio_frames: int = 3000
    audio_target_length: int = 200

    num_channels: int = 3
    image_size: int = 224
    image_patch_size: int = 16
    max_image_size: int = 1024
    video_size: int = 112
    video_patch_size: int = 16
    video_tubelet_size: int = 4
    num_frames: int = 16
    max_frames: int = 128
    video_fps: float | int = 8.0
    vision_encoder_layers: int = 0

    sequence_adaptation: Literal["queries", "interpolate"] = "queries"
    text_loss_weight: float | int = 1.0
    audio_loss_weight: float | int = 1.0
    image_loss_weight: float | int = 1.0
    video_loss_weight: float | int = 1.0
    learn_loss_weights: bool = True
    contrastive_loss_weight: float | int = 0.1
    projection_size: int | None = None
    logit_scale_init_value: float = 2.6592
    ctc_loss_weight: float | int = 0.0
    special_token_offset: int | None = None

    def __post_init__(self, **kwargs):
        for alias, name in self.attribute_map.items():
            if alias in kwargs:
                default = type(self).__dataclass_fields__[name].default
                if getattr(self, name) not in (default, kwargs[alias]):
                    raise ValueError(f"`{alias}` {kwargs[alias]} and `{name}` {getattr(self, name)} are one setting.")
                setattr(self, name, kwargs.pop(alias))
        self.refuse_unknown_words(kwargs)
        if self.intermediate_size is None:
            self.intermediate_size = 7 * self.hidden_size // 2
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None and self.hidden_size % self.num_attention_heads == 0:
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.initializer_range is None:
            self.initializer_range = 0.02 * (768 / self.hidden_size) ** 0.5
        if self.projection_size is None:
            self.projection_size = self.hidden_size
        if self.special_token_offset is None:
            self.special_token_offset = self.vocab_size + ROOM_FOR_ADDED_TOKENS
        self.validate_architecture()  # here as well, so that construction raises a plain ValueError
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Sizes that cannot work together. Runs at construction and before saving."""
        check_positive(
            self,
            *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
            *("intermediate_size", "projection_size", "rope_theta", "rms_norm_eps", "initializer_range"),
            *("num_mel_bins", "sampling_rate", "hop_length", "num_channels", "max_text_length"),
            *("image_size", "image_patch_size", "video_size", "video_patch_size", "video_tubelet_size"),
            *("num_frames", "max_frames", "max_audio_frames", "audio_target_length", "max_image_size", "video_fps"),
        )
        if self.vision_encoder_layers < 0:
            raise ValueError(f"`vision_encoder_layers` must not be negative, got {self.vision_encoder_layers}.")
        if self.head_dim is None:
            raise ValueError(
                f"`hidden_size` {self.hidden_size} is not divisible by `num_attention_heads` "
                f"{self.num_attention_heads}: give `head_dim` or change one of them."
            )
        if self.num_attention_heads % self.num_key_value_heads != 0:
            raise ValueError(
                f"`num_attention_heads` {self.num_attention_heads} is not divisible by `num_key_value_heads` "
                f"{self.num_key_value_heads}."
            )
        if self.head_dim < 2 or self.head_dim % 2 != 0:
            raise ValueError(f"`head_dim` must be even, since a rotation turns pairs, got {self.head_dim}.")
        for size, patch in (
            ("image_size", "image_patch_size"),
            ("video_size", "video_patch_size"),
            ("num_frames", "video_tubelet_size"),
        ):
            if getattr(self, size) % getattr(self, patch) != 0:
                raise ValueError(
                    f"`{size}` {getattr(self, size)} is not divisible by `{patch}` {getattr(self, patch)}."
                )
        for size, maximum in (
            ("image_size", "max_image_size"),
            ("num_frames", "max_frames"),
            ("audio_target_length", "max_audio_frames"),
        ):
            if getattr(self, size) > getattr(self, maximum):
                raise ValueError(f"`{size}` {getattr(self, size)} is above `{maximum}` {getattr(self, maximum)}.")
        if self.special_token_offset < self.vocab_size:
            raise ValueError(
                f"`special_token_offset` {self.special_token_offset} lies inside the vocabulary of `vocab_size` "
                f"{self.vocab_size}: placeholders would be taken for text."
            )
        if self.text_vocab_size is not None and not 0 < self.text_vocab_size <= self.vocab_size:
            raise ValueError(
                f"`text_vocab_size` must lie in 1..`vocab_size` {self.vocab_size}, got {self.text_vocab_size}."
            )
        if not 0 <= self.attention_dropout < 1:
            raise ValueError(f"`attention_dropout` must lie in [0, 1), got {self.attention_dropout}.")
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            ids = getattr(self, name)
            for token in ids if isinstance(ids, list) else [ids]:
                if token is None or not 0 <= token < (self.text_vocab_size or self.vocab_size):
                    raise ValueError(
                        f"`{name}` must lie in 0..{(self.text_vocab_size or self.vocab_size) - 1}, the text vocabulary; "
                        f"got {ids}."
                    )
        for name in ("text", "audio", "image", "video", "contrastive", "ctc"):
            if not getattr(self, f"{name}_loss_weight") >= 0:
                raise ValueError(
                    f"`{name}_loss_weight` must not be negative, got {getattr(self, f'{name}_loss_weight')}."
                )

    def __getattr__(self, name):
        # `image_token_id`, `text_target_token_id`, ...: an offset into the special tokens, never saved
        token = name.removesuffix("_id")
        if token != name and token in SPECIAL_TOKENS:
            return self.special_token_offset + list(SPECIAL_TOKENS).index(token)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @classmethod
    def tiny(cls, **kwargs) -> "OmniLatentConfig":
        """A model of well under a million parameters, for tests and examples."""
        return _preset(cls, "tiny", kwargs)

    @classmethod
    def base(cls, **kwargs) -> "OmniLatentConfig":
        """The defaults: hidden 768, 12 layers, 12 heads."""
        return _preset(cls, "base", kwargs)

    @classmethod
    def large(cls, **kwargs) -> "OmniLatentConfig":
        """The specification's larger model: hidden 1024, 16 layers, 16 heads."""
        return _preset(cls, "large", kwargs)


PRESETS = {
    "tiny": {
        "vocab_size": 320,
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_mel_bins": 16,
        "image_size": 32,
        "image_patch_size": 8,
        "max_image_size": 64,
        "video_size": 16,
        "video_patch_size": 8,
        "video_tubelet_size": 2,
        "num_frames": 4,
        "max_frames": 16,
        "video_fps": 8.0,
        "audio_target_length": 24,
        "max_audio_frames": 400,
        "max_text_length": 512,
    },
    "base": {},
    "large": {"hidden_size": 1024, "num_hidden_layers": 16, "num_attention_heads": 16},
}


def _preset(cls, name, overrides):
    # an override may use the specification's word for a size that the preset names by its field
    overrides = {cls.attribute_map.get(key, key): value for key, value in overrides.items()}
    return cls(**{**PRESETS[name], **overrides})


__all__ = ["OmniLatentConfig"]
