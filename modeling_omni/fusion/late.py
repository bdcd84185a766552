"""Fusions of two pooled vectors: gated sum and low-rank tensor fusion.

Each maps (first, first_mask, second, second_mask) to `FusedTokens`: the fused vector, then the tokens of both streams as
they came, for a decoder to read. Pooling respects the masks.

Shapes: B batch, D width, R rank.
"""

import torch
from torch import nn
from transformers import PreTrainedConfig

from ...configuration.configuration_multimodal import FusionConfig
from .fused_tokens import FusedTokens, join_masks, make_pooling, norm_of


class LateFusion(nn.Module):
    """Pools both streams and leaves to `merge` how two vectors become one."""

    def __init__(self, config: FusionConfig, kernel: str | PreTrainedConfig = "sdpa"):
        super().__init__()
        self.config = config
        self.poolings = nn.ModuleList(make_pooling(config) for _ in range(2))
        self.norm = norm_of(config)(config.hidden_size)

    def merge(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """(B, D) and (B, D) -> (B, D)."""
        raise NotImplementedError(f"{type(self).__name__} must say how two vectors become one.")

    def forward(self, first, first_mask, second, second_mask) -> FusedTokens:
        merged = self.norm(self.merge(self.poolings[0](first, first_mask), self.poolings[1](second, second_mask)))
        sizes = [1, first.shape[1], second.shape[1]]
        tokens = torch.cat([merged.unsqueeze(1), first, second], dim=1)
        return FusedTokens(tokens, join_masks(sizes, [None, first_mask, second_mask], tokens))


class GatedSumFusion(LateFusion):
    """h = z * tanh(W₁ x₁) + (1 - z) * tanh(W₂ x₂) with the gate z = σ(W [x₁, x₂]) (Arevalo et al. 2017, equation 1)."""

    def __init__(self, config: FusionConfig, kernel: str | PreTrainedConfig = "sdpa"):
        super().__init__(config, kernel)
        self.first_projection = nn.Linear(config.hidden_size, config.hidden_size)
        self.second_projection = nn.Linear(config.hidden_size, config.hidden_size)
        self.gate = nn.Linear(2 * config.hidden_size, config.hidden_size)

    def merge(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        gate = torch.sigmoid(self.gate(torch.cat([first, second], dim=-1)))
        return gate * torch.tanh(self.first_projection(first)) + (1 - gate) * torch.tanh(
            self.second_projection(second)
        )


class LowRankTensorFusion(LateFusion):
    """A linear map of the outer product [x₁; 1] ⊗ [x₂; 1] whose weight has rank R: Σᵣ (W₁ʳ [x₁; 1]) ∘ (W₂ʳ [x₂; 1])
    (Liu et al. 2018, equation 5). The 1 keeps each modality's own terms beside the products."""

    def __init__(self, config: FusionConfig, kernel: str | PreTrainedConfig = "sdpa"):
        super().__init__(config, kernel)
        self.rank = config.rank
        self.first_factors = nn.Linear(config.hidden_size, config.rank * config.hidden_size)  # its bias is the 1's row
        self.second_factors = nn.Linear(config.hidden_size, config.rank * config.hidden_size)

    def merge(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        product = self.first_factors(first) * self.second_factors(second)
        return product.unflatten(-1, (self.rank, -1)).sum(dim=1)
