"""Normalisation layers."""

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
