"""Attention whose time and memory grow linearly with the tokens.

Registered with transformers as `attn_implementation="linear"` and `"performer"`. Katharopoulos et al. (2020, equations
5 and 12): with φ(q)·φ(k) in place of exp(q·k) the sum over keys can be taken before the queries come,
out = φ(q)ᵀ Σ φ(k) vᵀ / φ(q)ᵀ Σ φ(k), over all keys or over those so far.

Shapes: B batch, G key and value heads, R query heads of each, Q queries, K keys, N tokens, d head width, m features,
C chunks of c tokens.
"""

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface

from .feature_maps import EluFeatures, FeatureMap, RandomFeatures
from .key_masks import check_key_mask, key_mask
from .recomputation import recomputed
from .symbolic_lengths import is_symbolic

# features and values of a head that are in memory at once; the sequence goes by in segments, which backward computes
# again. Larger ones need fewer calls, smaller ones keep the peak of backward below twice what flash attention needs.
# Half of it in causal attention, whose chunks make scores as well.
SEGMENT_NUMBERS = 2**22
# tokens of a causal chunk: within it scores are made, between chunks sums are handed on
CHUNK = 128
# the start of a maximum, whose difference to itself is 0
LOWEST = -1e30


def linear_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    feature_map: FeatureMap,
    keys_there: torch.Tensor | None = None,
    is_causal: bool = False,
    scaling: float | None = None,
) -> torch.Tensor:
    """φ(q)ᵀ Σ φ(k) vᵀ / φ(q)ᵀ Σ φ(k), with features and sums in float32 at least.

    Args:
        query: (B, H, Q, d).
        key, value: (B, G, K, d); each serves H / G query heads.
        keys_there: bool (B, K), False for keys that nobody sees.
        is_causal: a query sees keys up to its own place; Q = K then.
        scaling: of the scores that feature maps of softmax estimate.

    Returns:
        (B, H, Q, d), 0 for a query that sees no key.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    heads = key.shape[1]
    query = query.unflatten(1, (heads, -1))  # (B, G, R, Q, d)
    there = None if keys_there is None else keys_there[:, None, :, None]
    wide = torch.promote_types(value.dtype, torch.float32)
    features = feature_map.width(query.shape[-1])
    sums = value.new_zeros(value.shape[0], heads, features, value.shape[-1], dtype=wide)
    state = (sums, sums[..., 0], value.new_full((value.shape[0], heads, 1, 1), LOWEST, dtype=wide))
    numbers = SEGMENT_NUMBERS // 2 if is_causal else SEGMENT_NUMBERS
    segment = max(numbers // (features + value.shape[-1]) // CHUNK, 1) * CHUNK
    queries, keys, values = (_split(states, segment) for states in (query, key, value))
    marks = [None] * len(keys) if there is None else _split(there, segment)
    outputs = []
    with torch.autocast(query.device.type, enabled=False):
        if is_causal:
            for q, k, v, mark in zip(queries, keys, values, marks):
                output, *state = recomputed(_attend_causal, (q, k, v, *state), feature_map, scaling, mark)
                outputs.append(output)
        else:
            for k, v, mark in zip(keys, values, marks):
                state = recomputed(_add_keys, (k, v, *state), feature_map, scaling, mark)
            for q in queries:
                outputs.append(recomputed(_read, (q, *state[:2]), feature_map, scaling, value.dtype))
    return torch.cat(outputs, dim=3).flatten(1, 2)


def _add_keys(key, value, sums, counts, top, feature_map, scaling, there):
    """The state with a segment of keys: Σ φ(k) vᵀ (B, G, m, d), Σ φ(k) (B, G, m) and the top of the features."""
    narrow = _factor_type(value.dtype)
    features, sums, counts, top = _key_features(key, sums, counts, top, feature_map, scaling, there)
    # by chunks: one product over many keys would have a few outputs only, and keep few of a GPU's cores busy
    of_chunk = _chunk(features).transpose(-1, -2).to(narrow) @ _chunk(value.to(narrow))  # (B, G, C, m, d)
    return sums + of_chunk.sum(dim=2, dtype=sums.dtype), counts + features.sum(dim=-2), top


def _read(query, sums, counts, feature_map, scaling, dtype):
    """What queries (B, G, R, Q, d) read from the state: (B, G, R, Q, d)."""
    narrow = _factor_type(dtype)
    features = _chunk(feature_map.queries(query.to(sums.dtype), scaling))  # (B, G, R, C, c, m)
    numerator = features.to(narrow) @ sums[:, :, None, None].to(narrow)
    output = _divide(numerator, features @ counts[:, :, None, None, :, None]).to(dtype)
    return output.flatten(3, 4)[..., : query.shape[3], :]


def _attend_causal(query, key, value, sums, counts, top, feature_map, scaling, there):
    """A segment of queries on the state and on the segment's keys up to their own; and the state after it."""
    length, narrow = key.shape[2], _factor_type(value.dtype)
    features, sums, counts, top = _key_features(key, sums, counts, top, feature_map, scaling, there)
    keys, values = _chunk(features), _chunk(value.to(narrow))  # (B, G, C, c, m or d)
    queries = _chunk(feature_map.queries(query.to(sums.dtype), scaling))  # (B, G, R, C, c, m)
    of_chunk = (keys.transpose(-1, -2).to(narrow) @ values).to(sums.dtype)  # (B, G, C, m, d)
    counts_of_chunk = keys.sum(dim=-2)
    before = (sums.unsqueeze(2) + of_chunk.cumsum(dim=2) - of_chunk).unsqueeze(2)  # (B, G, 1, C, m, d)
    counts_before = (counts.unsqueeze(2) + counts_of_chunk.cumsum(dim=2) - counts_of_chunk).unsqueeze(2)
    scores = (queries.to(narrow) @ keys.unsqueeze(2).transpose(-1, -2).to(narrow)).tril()  # (B, G, R, C, c, c)
    numerator = (scores @ values.unsqueeze(2)).to(sums.dtype) + queries.to(narrow) @ before.to(narrow)
    denominator = scores.sum(dim=-1, keepdim=True, dtype=sums.dtype) + queries @ counts_before.unsqueeze(-1)
    output = _divide(numerator, denominator).to(value.dtype).flatten(3, 4)[..., :length, :]
    return output, sums + of_chunk.sum(dim=2), counts + counts_of_chunk.sum(dim=2), top


def _key_features(key, sums, counts, top, feature_map, scaling, there):
    """φ of keys, 0 for those that are not there, and the state as it is with the new top."""
    features, new_top = feature_map.keys(key.to(sums.dtype), scaling, there, top)
    if there is not None:
        features = features.masked_fill(~there, 0.0)
    if new_top is top:  # of features without one
        return features, sums, counts, top
    shrink = (top - new_top).exp()
    return features, sums * shrink, counts * shrink.squeeze(-1), new_top


def _split(states: torch.Tensor, segment: int) -> tuple[torch.Tensor, ...]:
    """Segments of (..., N, d). A compiled graph plans its memory itself."""
    return (states,) if torch.compiler.is_compiling() else states.split(segment, dim=-2)


def _factor_type(dtype: torch.dtype) -> torch.dtype:
    """The type of a product's factors for values of a type. In float16 they would overflow."""
    return dtype if dtype == torch.bfloat16 else torch.promote_types(dtype, torch.float32)


def _chunk(states: torch.Tensor) -> torch.Tensor:
    """(..., N, m) -> (..., C, c, m), padded with 0; all in one chunk where a program is exported for any length."""
    if is_symbolic(states.shape[-2]) or states.shape[-2] <= CHUNK:
        return states.unsqueeze(-3)
    missing = -states.shape[-2] % CHUNK
    states = nn.functional.pad(states, (0, 0, 0, missing)) if missing else states  # padding by nothing would copy
    return states.unflatten(-2, (-1, CHUNK))


def _divide(numerator, denominator):
    return numerator / torch.where(denominator > 0, denominator, 1)  # no key: 0 / 1


def linear_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    position_bias: torch.Tensor | None = None,
    feature_map: FeatureMap | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """The kernel in transformers' form.

    Args:
        query: (B, H, Q, d); key, value: (B, G, K, d).
        attention_mask: (B, K), True where a key is seen.
        feature_map: `None`: elu(x) + 1.

    Raises:
        ValueError: for what only weights have (dropout, a position bias), a mask of another shape, and causal
            attention to more or fewer keys than queries, as with a KV cache.
    """
    name = "performer" if isinstance(feature_map, RandomFeatures) else "linear"
    if dropout > 0:
        raise ValueError(
            f"The attention kernel {name!r} makes no weights to drop: `dropout` must be 0, got {dropout}."
        )
    if position_bias is not None:
        raise ValueError(f"The attention kernel {name!r} makes no scores that a `position_bias` could join.")
    is_causal = getattr(module, "is_causal", False) if is_causal is None else is_causal
    if is_causal and query.shape[2] != key.shape[2]:
        raise ValueError(
            f"The attention kernel {name!r} is causal for as many queries as keys, got {query.shape[2]} and "
            f"{key.shape[2]}; it has no KV cache: pass `use_cache=False`, or choose 'multi_head'."
        )
    attention_mask = check_key_mask(name, attention_mask, key)
    feature_map = EluFeatures() if feature_map is None else feature_map
    output = linear_attention(query, key, value, feature_map, attention_mask, is_causal, scaling)
    return output.transpose(1, 2), None


def performer_attention_forward(module: nn.Module, *args, feature_map: FeatureMap | None = None, **kwargs):
    """The same with random features, which the attention must bring.

    Raises:
        ValueError: without them.
    """
    if not isinstance(feature_map, RandomFeatures):
        raise ValueError(
            "The attention kernel 'performer' needs `feature_map=RandomFeatures(head_dim, num_features)`, which is "
            f"saved with the weights, got {feature_map!r}: let `make_attention` build the attention."
        )
    return linear_attention_forward(module, *args, feature_map=feature_map, **kwargs)


AttentionInterface.register("linear", linear_attention_forward)
AttentionMaskInterface.register("linear", key_mask)
AttentionInterface.register("performer", performer_attention_forward)
AttentionMaskInterface.register("performer", key_mask)

__all__ = ["linear_attention"]
