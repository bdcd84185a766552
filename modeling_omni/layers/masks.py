"""Mask predicates: who may attend to whom.

A predicate has transformers' own signature `(batch, head, query, key) -> bool` on index tensors, so that one
vocabulary serves eager, sdpa and flex attention. True = attend. They compose with transformers'
`and_masks` and `or_masks`.
"""

from collections.abc import Callable

import torch
from transformers.masking_utils import bidirectional_mask_function as everywhere
from transformers.masking_utils import causal_mask_function as causal

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


def all_keys_for(selected: torch.Tensor) -> MaskFunction:
    """Everything is visible to the queries marked True in `selected` (B, K), nothing to the others."""

    def predicate(batch, head, query, key):
        return selected[batch, query]

    return predicate


__all__ = ["MaskFunction", "all_keys_for", "causal", "everywhere", "segment_mask"]
