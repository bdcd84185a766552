"""Keeping the keys of hooks out of a model's key-value cache."""

import copy

import torch
from transformers.cache_utils import Cache, EncoderDecoderCache


class ContentCache:
    """A cache as one hooked layer sees it: the content's keys are stored, the hooks' go past it.

    Hooks are computed anew at each step, from what they read, which stays the same; so their keys need no storage,
    and beams, static caches and offloading work on content alone.

    Args:
        cache: the model's cache.
        count: number of hook tokens at the head of the sequence.
    """

    def __init__(self, cache: Cache, count: int):
        self._cache = cache
        self._count = count

    def update(self, key: torch.Tensor, value: torch.Tensor, *args, **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
        """Store (B, G, N + T, d) without its first N rows; return those and all content, (B, G, N + K, d)."""
        keys, values = self._cache.update(key[:, :, self._count :], value[:, :, self._count :], *args, **kwargs)
        return (
            torch.cat([key[:, :, : self._count], keys], dim=2),
            torch.cat([value[:, :, : self._count], values], dim=2),
        )

    def __getattr__(self, name):
        return getattr(self._cache, name)


def self_attention_cache(cache: Cache | None) -> Cache | None:
    """The part of a cache that belongs to self-attention."""
    return cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache


def past_hooks(cache: Cache, count: int) -> ContentCache | EncoderDecoderCache:
    """`cache` for a layer whose sequence begins with `count` hook tokens."""
    if isinstance(cache, EncoderDecoderCache):
        pair = copy.copy(cache)  # shares the record of which cross-attention keys are there
        pair.self_attention_cache = ContentCache(cache.self_attention_cache, count)
        return pair
    return ContentCache(cache, count)
