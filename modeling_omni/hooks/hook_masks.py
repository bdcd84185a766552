"""Who sees whom when hook tokens join a sequence.

Shapes: B batch, T content queries, K content keys, N hook tokens. True = attend. The joined sequence is
`[hooks; content]`, and its mask has four blocks:

             hooks      content
    hooks    each other what they read
    content  the gate   the layer's own mask
"""

import torch


def compute_dtype(states: torch.Tensor) -> torch.dtype:
    """The type in which attention will see these states: a mask's lowest value must exist in it."""
    if torch.is_autocast_enabled(states.device.type):
        return torch.get_autocast_dtype(states.device.type)
    return states.dtype


def own_mask(mask, states: torch.Tensor, keys: int, causal: bool) -> torch.Tensor:
    """The layer's own mask as a tensor (B or 1, H or 1, T, K), bool or additive.

    Raises:
        ValueError: for a mask that is no 4-D tensor, which is how flash and flex attention take theirs.
    """
    queries = states.shape[1]
    if mask is None:
        mask = torch.ones(1, 1, queries, keys, dtype=torch.bool, device=states.device)
        return mask.tril() if causal and queries > 1 else mask
    if not isinstance(mask, torch.Tensor) or mask.ndim != 4:
        form = f"a tensor of shape {tuple(mask.shape)}" if isinstance(mask, torch.Tensor) else type(mask).__name__
        raise ValueError(
            f"Hooks need a mask of shape (batch, 1, queries, keys), this layer got {form}: load the model with "
            "attn_implementation='sdpa' or 'eager'."
        )
    return mask


def visible(mask: torch.Tensor) -> torch.Tensor:
    """From the layer's own mask what every head may see: bool (B or 1, T, K)."""
    if mask.dtype != torch.bool:
        mask = mask > torch.finfo(mask.dtype).min / 2
    return mask.all(dim=1)


def first_reach(seen: torch.Tensor) -> torch.Tensor:
    """What the first real position sees: (B, T, K) -> (B, K). Padding on the left sees nothing and is passed over."""
    first = seen.any(dim=-1).to(torch.uint8).argmax(dim=1)
    return seen[torch.arange(len(seen), device=seen.device), first]


def reaches(seen: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
    """Which positions see all that is read: (B, T, K) and (B, K) -> (B, T)."""
    return (seen | ~read.unsqueeze(1)).all(dim=-1)


def join_masks(
    mask: torch.Tensor,
    hooks_see: torch.Tensor,
    hooks_read: torch.Tensor,
    may_attend: torch.Tensor,
    log_gate: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """The additive mask of the joined sequence, (B, H or 1, N + T, N + K).

    Args:
        mask: the layer's own, (B or 1, H or 1, T, K).
        hooks_see: (B, N, N), the hooks each hook sees.
        hooks_read: (B, N, K), the content each hook reads.
        may_attend: (B, T, N), the hooks each content position may see.
        log_gate: (N,), added to the scores of content on hooks.
    """
    batch, queries, count = may_attend.shape
    shape = (batch, mask.shape[1], queries, -1)
    upper = additive(torch.cat([hooks_see, hooks_read], dim=-1), dtype).unsqueeze(1)
    gated = torch.where(may_attend, log_gate.to(dtype), torch.finfo(dtype).min).unsqueeze(1)
    lower = torch.cat([gated.expand(shape), additive(mask, dtype).expand(shape)], dim=-1)
    return torch.cat([upper.expand(batch, mask.shape[1], count, -1), lower], dim=-2)


def additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where True and the type's lowest value where not; a mask that is additive already is kept within the type."""
    lowest = torch.finfo(dtype).min
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, lowest)
    return mask.clamp(min=lowest).to(dtype)
