"""Configuration of the vision transformer with relative position bias."""

import math
from collections.abc import Sequence

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from .known_words import KnownWords
from .size_checks import check_heads_divide, check_positive


@strict
class RelPosViTConfig(KnownWords, PreTrainedConfig):
    r"""
    Everything that decides the shape of a [`RelPosViTModel`]. The defaults are ViT-B/16 for images of 224 pixels;
    `RelPosViTConfig.tiny()`, `.small()` and `.base()` are the presets.

    Args:
        hidden_size (`int`, defaults to 768): Width of the layers.
        num_hidden_layers (`int`, defaults to 12): Layers.
        num_attention_heads (`int`, defaults to 12): Heads; they divide `hidden_size`.
        intermediate_size (`int`, *optional*): Width of the feed-forward layers' hidden layer. `None`: 4 * `hidden_size`.
        hidden_act (`str`, defaults to `"gelu"`): Activation of the feed-forward layers.
        hidden_dropout (`float`, defaults to 0.0): Dropout on the embeddings and on each branch's output.
        attention_dropout (`float`, defaults to 0.0): Dropout on attention weights.
        drop_path_rate (`float`, defaults to 0.0): Share of the samples in which the last layer's branches are left out
            in training; it grows evenly from 0 in the first layer (stochastic depth, Huang et al. 2016).
        layer_norm_eps (`float`, defaults to 1e-6): Added to the variance in every norm.
        norm_position (`"before"` or `"after"`, defaults to `"before"`): Whether a branch's input is normed, or its
            output (Swin Transformer v2, Liu et al. 2022, section 3.2).
        layer_scale_init_value (`float`, *optional*): Start of a learned factor on each channel of a branch's output;
            `None` leaves it out. With `norm_position="after"` it is the start of the norm's own factor.
        initializer_range (`float`, defaults to 0.02): Standard deviation of the weight initialisation, the bias tables
            included.
        image_size (`int` or `(height, width)`, defaults to 224): Pixels of the images that the tables are made for. The
            model takes other sizes too.
        patch_size (`int` or `(height, width)`, defaults to 16): Pixels of a patch, which is one token.
        num_channels (`int`, defaults to 3): Colour channels.
        num_frames (`int`, *optional*): Frames of the videos that the tables are made for. `None`: the model takes
            images.
        tubelet_size (`int`, defaults to 1): Frames of a token, where the model takes videos.
        position_embedding (`"relative"`, `"absolute"`, `"both"` or `"none"`, defaults to `"relative"`): A bias on the
            attention scores, a learned vector added to each patch, or both.
        bias_type (`"1d"`, `"2d"` or `"3d"`, *optional*): What counts as an offset between two patches: places in the row
            of all patches, rows and columns, or frames, rows and columns. `None`: `"2d"` for images, `"3d"` for videos.
        share_position_bias (`bool`, defaults to `False`): One table for all layers instead of one for each.
        use_class_token (`bool`, defaults to `False`): Put a learned token before the patches. The tables then have three
            entries for it.
        pooling (`"mean"` or `"cls"`, defaults to `"mean"`): What becomes the picture's embedding: the mean of the
            patches, or the class token.
        norm_after_pooling (`bool`, defaults to `False`): Apply the last norm to the embedding instead of to all tokens.

    Raises:
        ValueError: for sizes that cannot work together, an unknown word, or a misspelt setting.

    Example:

    ```python
    >>> from omnilatent import RelPosViTConfig, RelPosViTForImageClassification

    >>> config = RelPosViTConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=(64, 96))
    >>> config.grid_size
    (4, 6)
    >>> model = RelPosViTForImageClassification(config)
    ```
    """

    model_type = "relpos_vit"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int | None = None
    hidden_act: str = "gelu"
    hidden_dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    drop_path_rate: float | int = 0.0
    layer_norm_eps: float = 1e-6
    norm_position: str = "before"
    layer_scale_init_value: float | int | None = None
    initializer_range: float | int = 0.02
    image_size: int | list[int] | tuple[int, ...] = 224
    patch_size: int | list[int] | tuple[int, ...] = 16
    num_channels: int = 3
    num_frames: int | None = None
    tubelet_size: int = 1
    position_embedding: str = "relative"
    bias_type: str | None = None
    share_position_bias: bool = False
    use_class_token: bool = False
    pooling: str = "mean"
    norm_after_pooling: bool = False

    def __post_init__(self, **kwargs):
        self.refuse_unknown_words(kwargs)
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        if self.bias_type is None:
            self.bias_type = "2d" if self.num_frames is None else "3d"
        self.validate_architecture()  # here as well, so that construction raises a plain ValueError
        super().__post_init__(**kwargs)

    @property
    def input_size(self) -> tuple[int, ...]:
        """(height, width) of the images in pixels, or (frames, height, width)."""
        frames = () if self.num_frames is None else (self.num_frames,)
        return frames + as_pair("image_size", self.image_size)

    @property
    def patch_shape(self) -> tuple[int, ...]:
        """(height, width) of a patch in pixels, or (frames, height, width)."""
        frames = () if self.num_frames is None else (self.tubelet_size,)
        return frames + as_pair("patch_size", self.patch_size)

    @property
    def grid_size(self) -> tuple[int, ...]:
        """Patches along each axis."""
        return tuple(size // patch for size, patch in zip(self.input_size, self.patch_shape))

    @property
    def bias_size(self) -> tuple[int, ...]:
        """Tokens along each axis of the bias tables."""
        return (math.prod(self.grid_size),) if self.bias_type == "1d" else self.grid_size

    @property
    def has_position_bias(self) -> bool:
        return self.position_embedding in ("relative", "both")

    @property
    def has_absolute_positions(self) -> bool:
        return self.position_embedding in ("absolute", "both")

    def validate_architecture(self):
        """Sizes that cannot work together. Runs at construction and before saving."""
        check_positive(
            self,
            *("hidden_size", "num_attention_heads", "intermediate_size", "num_channels", "tubelet_size"),
            *("layer_norm_eps", "initializer_range"),
        )
        if self.num_hidden_layers < 0:
            raise ValueError(f"`num_hidden_layers` must not be negative, got {self.num_hidden_layers}.")
        check_heads_divide(self)
        for name in ("hidden_dropout", "attention_dropout", "drop_path_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` must lie in [0, 1), got {getattr(self, name)}.")
        check_divisible(self.input_size, self.patch_shape)
        for name, words in {
            "hidden_act": ACT2FN,
            "norm_position": ("before", "after"),
            "position_embedding": ("relative", "absolute", "both", "none"),
            "pooling": ("mean", "cls"),
        }.items():
            if getattr(self, name) not in words:
                raise ValueError(f"`{name}` must be one of {', '.join(words)}, got {getattr(self, name)!r}.")
        if self.bias_type not in (("1d", "2d") if self.num_frames is None else ("1d", "3d")):
            raise ValueError(
                '`bias_type` must be "1d" or "2d" for images (`num_frames=None`), and "1d" or "3d" for videos '
                f"(`num_frames` set), got {self.bias_type!r} with `num_frames={self.num_frames}`."
            )
        if self.pooling == "cls" and not self.use_class_token:
            raise ValueError('`pooling` "cls" needs `use_class_token`.')

    @classmethod
    def tiny(cls, **kwargs) -> "RelPosViTConfig":
        """A model of about fifty thousand parameters, for tests and examples.

        `omnilatent classify --preset tiny` is not this one but DeiT's tiny, of 5.5 million.
        """
        return cls(**{**TINY, **kwargs})

    @classmethod
    def small(cls, **kwargs) -> "RelPosViTConfig":
        """ViT-S/16, of 22 million parameters."""
        return cls(**{**DEIT_SIZES["small"], **kwargs})

    @classmethod
    def base(cls, **kwargs) -> "RelPosViTConfig":
        """The defaults: ViT-B/16, of 86 million parameters."""
        return cls(**{**DEIT_SIZES["base"], **kwargs})


def check_divisible(size: tuple[int, ...], patch: tuple[int, ...]):
    """Raise a ValueError unless patches fill a picture or video of this size."""
    if min(size) < 1 or min(patch) < 1 or any(length % part != 0 for length, part in zip(size, patch)):
        raise ValueError(f"A size of {size} cannot be cut into patches of {patch}.")


def as_pair(name: str, size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) from one number for both, or from two."""
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2:
        raise ValueError(f"`{name}` must be one number or (height, width), got {size}.")
    return pair


TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": (24, 32),
    "patch_size": 8,
}

# DeiT's three sizes (Touvron et al. 2021, table 1)
DEIT_SIZES = {
    "tiny": {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3},
    "small": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
}

__all__ = ["DEIT_SIZES", "RelPosViTConfig"]
