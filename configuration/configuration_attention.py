"""Configuration of an attention."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .known_words import KnownWords
from .size_checks import check_positive

# settings that belong to one kind, and what they are where nothing is said
SETTINGS_OF_KIND = {
    "sparse": {"window_size": 128, "num_global_tokens": 1},
    "linear": {"feature_map": "elu"},
    "performer": {"num_random_features": 256},
}
POSITIONS = ("learned", "sinusoidal", "rotary", "relative", "none")


@strict
class AttentionConfig(KnownWords, PreTrainedConfig):
    r"""
    How tokens attend to each other; `make_attention` builds it. Cross-attention is no kind: every kind but `"sparse"`
    reads a `context` of any length.

    Args:
        kind (`"multi_head"`, `"sparse"`, `"linear"` or `"performer"`, defaults to `"multi_head"`): Softmax over all
            keys; softmax over a window and a few global tokens (Longformer); kernel feature maps in softmax's place
            (Katharopoulos et al. 2020); random features that estimate softmax (Performer, Choromanski et al. 2021).
        num_attention_heads (`int`, defaults to 8): Query heads.
        num_key_value_heads (`int`, *optional*): Key and value heads, each shared by a group of query heads. `None`: as
            many as query heads.
        head_dim (`int`, *optional*): Width of a head. `None`: the hidden size over `num_attention_heads`.
        dropout (`float`, defaults to 0.0): Dropout on attention weights, which `"linear"` and `"performer"` never make.
        bias (`bool`, defaults to `True`): Biases on the four projections.
        qk_norm (`bool`, defaults to `False`): RMSNorm over each query and key head.
        window_size (`int`, *optional*): For `"sparse"`: tokens on each side that a token sees. `None`: 128.
        num_global_tokens (`int`, *optional*): For `"sparse"`: the first tokens, which see all and are seen by all (in
            causal attention: by all that follow). `None`: 1.
        feature_map (`"elu"` or `"relu"`, *optional*): For `"linear"`: elu(x) + 1, or relu(x). `None`: `"elu"`.
        num_random_features (`int`, *optional*): For `"performer"`: random features of a head. `None`: 256.

    Raises:
        ValueError: for sizes that cannot work together, a misspelt word or a setting of another kind.

    Example:

    ```python
    >>> from omnilatent import AttentionConfig

    >>> AttentionConfig(kind="sparse", window_size=64).num_global_tokens
    1
    ```
    """

    model_type = "omnilatent_attention"

    kind: Literal["multi_head", "sparse", "linear", "performer"] = "multi_head"
    num_attention_heads: int = 8
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    dropout: float | int = 0.0
    bias: bool = True
    qk_norm: bool = False
    window_size: int | None = None
    num_global_tokens: int | None = None
    feature_map: Literal["elu", "relu"] | None = None
    num_random_features: int | None = None

    def __post_init__(self, **kwargs):
        self.refuse_unknown_words(kwargs)
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        for name, default in SETTINGS_OF_KIND.get(self.kind, {}).items():
            if getattr(self, name) is None:
                setattr(self, name, default)
        self.validate_architecture()  # here as well, so that construction raises a plain ValueError
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Settings that cannot work together. Runs at construction and before saving."""
        given = ("head_dim", "window_size", "num_random_features")
        check_positive(
            self,
            *("num_attention_heads", "num_key_value_heads"),
            *(name for name in given if getattr(self, name) is not None),
        )
        if self.num_attention_heads % self.num_key_value_heads != 0:
            raise ValueError(
                f"`num_attention_heads` {self.num_attention_heads} is not divisible by `num_key_value_heads` "
                f"{self.num_key_value_heads}."
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` must lie in [0, 1), got {self.dropout}.")
        if self.num_global_tokens is not None and self.num_global_tokens < 0:
            raise ValueError(f"`num_global_tokens` must not be negative, got {self.num_global_tokens}.")
        for kind, settings in SETTINGS_OF_KIND.items():
            for name in settings:
                if kind != self.kind and getattr(self, name) is not None:
                    raise ValueError(
                        f"`{name}` is a setting of attention of kind {kind!r}, but `kind` is {self.kind!r}."
                    )
        if self.kind in ("linear", "performer") and self.dropout > 0:
            raise ValueError(
                f"`dropout` must be 0 for attention of kind {self.kind!r}, which makes no weights to drop, got "
                f"{self.dropout}."
            )


def check_position(attention: AttentionConfig, position: str):
    """Raise a ValueError for positions that this attention has no place for.

    Args:
        position: `"learned"` and `"sinusoidal"` are added to tokens, `"rotary"` turns queries and keys, `"relative"`
            joins the scores, or `"none"`.
    """
    if position not in POSITIONS:
        raise ValueError(f"There is no `position` {position!r}: choose one of {', '.join(POSITIONS)}.")
    if position == "relative" and attention.kind in ("linear", "performer"):
        raise ValueError(
            f"`position` 'relative' is added to scores, and attention of kind {attention.kind!r} makes none: choose "
            "'rotary', 'learned' or 'sinusoidal'."
        )
    if position == "rotary" and attention.head_dim is not None and attention.head_dim % 2 != 0:
        raise ValueError(f"`position` 'rotary' turns pairs: `head_dim` must be even, got {attention.head_dim}.")


__all__ = ["AttentionConfig", "check_position"]
