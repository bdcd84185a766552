"""What transformers calls a cache: `cache` from 5.24 on, `past_key_values` before."""

import inspect

from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask

CACHE = "cache" if "cache" in inspect.signature(create_causal_mask).parameters else "past_key_values"


def one_cache(cache: Cache | None, past_key_values: Cache | None) -> Cache | None:
    """The cache of a call that may have either name.

    Raises:
        ValueError: when both are given.
    """
    if cache is not None and past_key_values is not None:
        raise ValueError("`cache` and `past_key_values` are the same input: give one of them.")
    return past_key_values if cache is None else cache
