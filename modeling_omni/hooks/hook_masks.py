"""Who sees whom when hook tokens join a sequence.

Shapes: B batch, T content queries, K content keys, N hook tokens. True = attend. The joined sequence is
`[hooks; content]`, and its mask has four blocks:

             hooks      content
    hooks    each other what they read
    content  the gate   the layer's own mask
"""

import torch
from torch.nn import functional as F

from ..layers.gated_mask import GatedMask


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


class JoinedMask:
    """The additive mask of the joined sequence, for all layers that differ in nothing but their gates.

    Args:
        mask: the layers' own, (B or 1, H or 1, T, K).
        hooks_see: (B or 1, N, N), the hooks each hook sees.
        hooks_read: (B, N, K), the content each hook reads.
        may_attend: (B, T, N), the hooks each content position may see.
        gate_of_hook: (N, gates), 1 at the gate of each hook.
        dtype: what attention computes in.
    """

    def __init__(
        self,
        mask: torch.Tensor,
        hooks_see: torch.Tensor,
        hooks_read: torch.Tensor,
        may_attend: torch.Tensor,
        gate_of_hook: torch.Tensor,
        dtype: torch.dtype,
    ):
        batch, queries, count = may_attend.shape
        keys, heads = mask.shape[-1], mask.shape[1]
        upper = torch.cat([hooks_see.expand(batch, -1, -1), hooks_read], dim=-1).unsqueeze(1)
        gated, mask = additive(may_attend, dtype).unsqueeze(1), additive(mask, dtype)
        shape = (batch, heads, queries, -1)
        lower = torch.cat([gated.expand(shape), mask.expand(shape)], dim=-1)
        self.num_gated = count
        self.open = torch.cat([additive(upper, dtype).expand(-1, heads, -1, -1), lower], dim=-2)  # gates of 1
        self.gated = F.pad(may_attend.unsqueeze(1).to(dtype), (0, keys, count, 0))  # (B, 1, N + T, N + K)
        self.gate_of_key = F.pad(gate_of_hook.to(dtype), (0, 0, 0, keys))  # (N + K, gates)

    def with_gates(self, log_gates: torch.Tensor) -> GatedMask:
        """The mask of a layer whose gates let log σ(b), (gates,), through."""
        return GatedMask(self.open, self.gated, self.gate_of_key, log_gates, self.num_gated)


def additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where True and the type's lowest value where not; a mask that is additive already is kept within the type."""
    lowest = torch.finfo(dtype).min
    if mask.dtype == torch.bool:
        return torch.where(mask, 0.0, torch.tensor(lowest, dtype=dtype))
    return mask.clamp(min=lowest).to(dtype)
