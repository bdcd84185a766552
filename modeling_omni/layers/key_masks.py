"""The masks of kernels that take none of pairs of tokens: which keys are there."""

from collections.abc import Callable

import torch

from .masks import causal, everywhere


def key_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Callable = causal,
    attention_mask: torch.Tensor | None = None,
    **kwargs,
) -> torch.Tensor | None:
    """The keys' padding, bool (B, K), as a mask builder of transformers; causality is the attention's `is_causal`.

    Raises:
        ValueError: for a predicate other than `causal` and `everywhere`, which such a kernel would drop.
    """
    if mask_function not in (causal, everywhere):
        raise ValueError(
            "A kernel that takes no mask of pairs of tokens hides padding and the future only: it has no word "
            f"for the mask predicate {getattr(mask_function, '__qualname__', mask_function)}."
        )
    return None if attention_mask is None else attention_mask[:, -kv_length:].bool()


def check_key_mask(kind: str, attention_mask: torch.Tensor | None, key: torch.Tensor) -> torch.Tensor | None:
    """A mask (B, K) of the keys (B, G, K, d) as bool.

    Raises:
        ValueError: for a mask of another shape.
    """
    if attention_mask is None:
        return None
    expected = (key.shape[0], key.shape[2])
    if attention_mask.ndim != 2 or attention_mask.shape[0] != expected[0] or attention_mask.shape[1] != expected[1]:
        raise ValueError(
            f"The attention kernel {kind!r} takes a mask of the keys of shape {expected}, True where a key is there, "
            f"got {tuple(attention_mask.shape)}: let `make_attention_mask` build it."
        )
    return attention_mask.bool()
