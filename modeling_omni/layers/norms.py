"""Normalisation layers."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F


class RMSNorm(nn.RMSNorm):
    """y = x / sqrt(mean(x²) + eps) * weight over the last dimension (Zhang & Sennrich 2019, equation 4).

    Statistics are computed in float32 whatever the input's type, and the result has the input's type.
    """

    def __init__(self, hidden_size: int, eps: float = 1e-6):
        super().__init__(hidden_size, eps=eps)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        # torch's kernel computes the statistics in float32; a weight of another type would keep it from being used
        return F.rms_norm(hidden_states, self.normalized_shape, self.weight.to(hidden_states.dtype), self.eps)


class ScaleNorm(nn.Module):
    """y = g x / max(|x|, eps) with one learned g (Nguyen & Salazar 2019, equation 5), which starts at the root of the width.

    The length is computed in float32 whatever the input's type, and the result has the input's type.
    """

    def __init__(self, hidden_size: int, eps: float = 1e-6):
        super().__init__()
        self.hidden_size = hidden_size
        self.eps = eps
        self.weight = nn.Parameter(torch.tensor([hidden_size**0.5]))  # FSDP refuses scalars

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        wide = hidden_states.to(torch.promote_types(hidden_states.dtype, torch.float32))
        return (F.normalize(wide, dim=-1, eps=self.eps) * self.weight).to(hidden_states.dtype)

    def extra_repr(self) -> str:
        return f"{self.hidden_size}, eps={self.eps}"


NORMS: dict[str, Callable[..., nn.Module]] = {"layer_norm": nn.LayerNorm, "rms_norm": RMSNorm, "scale_norm": ScaleNorm}


def make_norm(kind: str, hidden_size: int, eps: float = 1e-6) -> nn.Module:
    """A norm over the last dimension: `"layer_norm"`, `"rms_norm"` or `"scale_norm"`.

    Raises:
        ValueError: for another word.
    """
    if kind not in NORMS:
        raise ValueError(f"There is no norm {kind!r}: choose one of {', '.join(NORMS)}.")
    return NORMS[kind](hidden_size, eps=eps)


__all__ = ["NORMS", "RMSNorm", "ScaleNorm", "make_norm"]
