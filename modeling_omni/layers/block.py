"""The transformer layer."""

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer


class TransformerBlock(GradientCheckpointingLayer):
    """x + a * attention(norm(x)), then x + b * feed_forward(norm(x)); a and b are LayerScale's factors.

    LayerScale (Touvron et al. 2021, section 2) has one learned factor per channel, without which the first layer
    dominates the residual stream of this model. Gradient checkpointing happens inside: recomputation starts from the
    hidden states that come in as the first positional argument.

    Args:
        attention, feed_forward: the two branches.
        norm: makes a norm for a width; called once per branch.
        layer_scale: start of the factors; `None` leaves them out.
    """

    def __init__(
        self, hidden_size: int, attention: nn.Module, feed_forward: nn.Module, norm, layer_scale: float | None = None
    ):
        super().__init__()
        self.attention_norm = norm(hidden_size)
        self.attention = attention
        self.feed_forward_norm = norm(hidden_size)
        self.feed_forward = feed_forward
        self.attention_scale = LayerScale(hidden_size, layer_scale) if layer_scale is not None else nn.Identity()
        self.feed_forward_scale = LayerScale(hidden_size, layer_scale) if layer_scale is not None else nn.Identity()

    def forward(self, hidden_states: torch.Tensor, **kwargs) -> torch.Tensor:
        """Keywords go to the attention. Shapes in and out: (B, T, D)."""
        attended, _ = self.attention(self.attention_norm(hidden_states), **kwargs)
        hidden_states = hidden_states + self.attention_scale(attended)
        return hidden_states + self.feed_forward_scale(self.feed_forward(self.feed_forward_norm(hidden_states)))


class LayerScale(nn.Module):
    """Multiply by a learned factor per channel."""

    def __init__(self, hidden_size: int, init_value: float):
        super().__init__()
        self.init_value = init_value
        self.weight = nn.Parameter(torch.full((hidden_size,), init_value))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states * self.weight
