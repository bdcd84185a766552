"""Kernels of attention: how weights are made and values summed.

A kernel is a name in transformers' `ALL_ATTENTION_FUNCTIONS`. Whoever registers one registers its mask builder in
`ALL_MASK_ATTENTION_FUNCTIONS` in the next line: without it the mask arrives as `None` and padding is attended
to without a word.
"""

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def eager_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_bias: torch.Tensor | None = None,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention by its formula, softmax(q kᵀ scaling + bias + mask) v, with the weights returned.

    Args:
        query: (B, H, Q, d).
        key, value: (B, G, K, d); each serves H / G query heads.
        attention_mask: (B or 1, H or 1, Q, K); bool with True = attend, or float and added to the scores with the
            type's lowest value where not. A query without any key gets 0.
        position_bias: (B or 1, H, Q, K), added to the scores.

    Returns:
        The output (B, Q, H, d) and the weights (B, H, Q, K).
    """
    key, value = expand_groups(query, key, value)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = (query @ key.transpose(2, 3) * scaling).float()
    if position_bias is not None:
        scores = scores + position_bias
    if attention_mask is not None:
        attend = attention_mask
        if attention_mask.dtype != torch.bool:
            scores = scores + attention_mask
            attend = attention_mask > torch.finfo(attention_mask.dtype).min
        scores = scores.masked_fill(~attend, torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=-1)
    if attention_mask is not None:
        weights = weights.masked_fill(~attend.any(dim=-1, keepdim=True), 0.0)
    weights = nn.functional.dropout(weights.to(query.dtype), p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2), weights


def expand_groups(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Key and value (B, G, K, d) repeated for the H / G query heads that each serves, in order: (B, H, K, d)."""
    groups = query.shape[1] // key.shape[1]
    if groups == 1:  # nothing to copy
        return key, value
    return key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)


def get_kernel(name: str):
    """The kernel registered under `name` (`"eager"`, `"sdpa"`, `"flex_attention"`, ...).

    Raises:
        KeyError: for a name that nobody registered; the message lists those there are.
    """
    return ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention)


def get_mask_builder(config: PreTrainedConfig | str):
    """What turns mask predicates into the mask that a kernel takes: the config's, or the one of this name.

    Raises:
        ValueError: for a kernel that came without one; it would attend to padding.
    """
    name = config if isinstance(config, str) else config._attn_implementation
    if name not in ALL_MASK_ATTENTION_FUNCTIONS:
        raise ValueError(
            f"The attention kernel {name!r} has no mask builder: register one in ALL_MASK_ATTENTION_FUNCTIONS; there "
            f"are {', '.join(sorted(ALL_MASK_ATTENTION_FUNCTIONS.valid_keys()))}."
        )
    return ALL_MASK_ATTENTION_FUNCTIONS[name]
