"""Mask predicates: who may attend to whom.

A predicate has transformers' own signature `(batch, head, query, key) -> bool` on index tensors, so that one
vocabulary serves eager, sdpa and flex attention. True = attend. They compose with transformers'
`and_masks` and `or_masks`.
"""

from collections.abc import Callable

import torch
from transformers import PreTrainedConfig
from transformers.masking_utils import bidirectional_mask_function as everywhere
from transformers.masking_utils import causal_mask_function as causal
from transformers.masking_utils import create_bidirectional_mask

from .value_checks import check_values

MaskFunction = Callable[[int, int, int, int], bool]


def segment_mask(segments: torch.Tensor) -> MaskFunction:
    """Every segment sees itself; segments above 0 see segment 0 as well, which is their common ground.

    Args:
        segments: (B, K) segment of each key; queries are the last of them.
    """

    def predicate(batch, head, query, key):
        own = segments[batch, key] == segments[batch, query]
        return own | ((segments[batch, key] == 0) & (segments[batch, query] > 0))

    return predicate


def padding_mask(
    config: PreTrainedConfig,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None,
    context: torch.Tensor | None = None,
) -> torch.Tensor | None:
    """The padding of keys in the form that the config's kernel takes; `None` where nothing is padded.

    In graphs compiled by torch 2.11, which says there that it exports, transformers' own function writes out a mask that
    hides nothing, and then no fused kernel runs.

    Args:
        hidden_states: (B, Q, D), the queries.
        attention_mask: (B, K), 1 where a key is there and 0 at padding.
        context: (B, K, D), where keys come from. `None`: the queries.
    """
    if attention_mask is None:
        return None
    return create_bidirectional_mask(config, hidden_states, attention_mask, encoder_hidden_states=context)


def as_attention_mask(mask: torch.Tensor, batch: int, heads: int, queries: int, keys: int) -> torch.Tensor:
    """A mask in any of the usual shapes as bool, broadcastable to (B, H, Q, K).

    Args:
        mask: True or 1 = attend. (B, K) hides keys of a sample; (Q, K), (B, Q, K) and (B or 1, H or 1, Q or 1, K) tell
            each query what it sees. Whole numbers and floats must be 0 or 1.

    Raises:
        ValueError: for another shape, for (N, N) where N is both the batch and the number of queries, so that it could
            mean either, and for values other than 0 and 1, which may have been meant to be added to the scores.
    """
    shape = tuple(mask.shape)
    by_query = mask.ndim == 2 and shape in ((queries, keys), (1, keys))
    by_sample = mask.ndim == 2 and shape == (batch, keys)
    if by_query and by_sample and batch > 1:
        raise ValueError(
            f"A mask of shape {shape} may be (batch, keys) or (queries, keys): give it as (batch, 1, 1, keys) or as "
            "(1, 1, queries, keys)."
        )
    if mask.ndim == 4:
        full = mask
    elif mask.ndim == 3:
        full = mask[:, None]
    else:
        full = mask[:, None, None] if by_sample and not by_query else mask[None, None]
    fits = full.ndim == 4 and all(size in (1, whole) for size, whole in zip(full.shape, (batch, heads, queries)))
    if not fits or full.shape[-1] != keys or (mask.ndim == 2 and not (by_query or by_sample)):
        raise ValueError(
            f"A mask of shape {shape} does not fit {batch} samples, {heads} heads, {queries} queries and {keys} keys: "
            "expected (batch, keys), (queries, keys), (batch, queries, keys) or (batch, heads, queries, keys)."
        )
    if full.dtype == torch.bool:
        return full
    check_values((full == 0) | (full == 1), "A mask holds True or 1 where to attend, and False or 0 where not.")
    return full != 0


def zero_blind_queries(output: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """0 for the queries that no head lets see any key: what a projection's bias made of nothing.

    Args:
        output: (B, Q, D).
        mask: bool, broadcastable to (B, H, Q, K), as `as_attention_mask` makes it.
    """
    if mask is None:
        return output
    return output.masked_fill(~mask.any(dim=-1).any(dim=1).unsqueeze(-1), 0)


def all_keys_for(selected: torch.Tensor) -> MaskFunction:
    """Everything is visible to the queries marked True in `selected` (B, K), nothing to the others."""

    def predicate(batch, head, query, key):
        return selected[batch, query]

    return predicate


__all__ = [
    "MaskFunction",
    "all_keys_for",
    "as_attention_mask",
    "causal",
    "everywhere",
    "segment_mask",
    "zero_blind_queries",
]
