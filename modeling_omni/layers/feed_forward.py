"""Position-wise feed-forward layers.

Shapes: B batch, T tokens, D hidden size.
"""

import torch
from torch import nn
from transformers.activations import ACT2FN


class FeedForward(nn.Module):
    """down(act(up(x))) (Vaswani et al. 2017, section 3.3). Shapes in and out: (B, T, D)."""

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        hidden_act: str = "gelu",
        dropout: float = 0.0,
        bias: bool = True,
    ):
        super().__init__()
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=bias)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=bias)
        self.act = ACT2FN[hidden_act]
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.dropout(self.act(self.up_proj(hidden_states))))


class GatedFeedForward(nn.Module):
    """down(act(gate(x)) * up(x)) (Shazeer 2020, section 2). Shapes in and out: (B, T, D).

    Args:
        hidden_act: `"sigmoid"` makes it GLU, `"silu"` SwiGLU.
    """

    def __init__(
        self, hidden_size: int, intermediate_size: int, hidden_act: str, dropout: float = 0.0, bias: bool = False
    ):
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=bias)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=bias)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=bias)
        self.act = ACT2FN[hidden_act]
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.dropout(self.act(self.gate_proj(hidden_states)) * self.up_proj(hidden_states)))


class SwiGLU(GatedFeedForward):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020, equation 6)."""

    def __init__(self, hidden_size: int, intermediate_size: int, dropout: float = 0.0, bias: bool = False):
        super().__init__(hidden_size, intermediate_size, "silu", dropout, bias)


class GLU(GatedFeedForward):
    """down(sigmoid(gate(x)) * up(x)) (Shazeer 2020, equation 5)."""

    def __init__(self, hidden_size: int, intermediate_size: int, dropout: float = 0.0, bias: bool = False):
        super().__init__(hidden_size, intermediate_size, "sigmoid", dropout, bias)


FEED_FORWARDS = ("standard", "glu", "swiglu")


def make_feed_forward(
    kind: str,
    hidden_size: int,
    intermediate_size: int,
    hidden_act: str = "gelu",
    dropout: float = 0.0,
    bias: bool | None = None,
) -> nn.Module:
    """A feed-forward layer: `"standard"`, `"glu"` or `"swiglu"`.

    Args:
        hidden_act: of `"standard"`; the others have theirs in their name.
        dropout: on the hidden layer.
        bias: on the projections. `None`: as the papers have it, with `"standard"` only.

    Raises:
        ValueError: for another word.
    """
    if kind == "standard":
        return FeedForward(hidden_size, intermediate_size, hidden_act, dropout, True if bias is None else bias)
    if kind in FEED_FORWARDS:
        gated = SwiGLU if kind == "swiglu" else GLU
        return gated(hidden_size, intermediate_size, dropout, bool(bias))
    raise ValueError(f"There is no feed-forward layer {kind!r}: choose one of {', '.join(FEED_FORWARDS)}.")


__all__ = ["FEED_FORWARDS", "FeedForward", "GLU", "GatedFeedForward", "SwiGLU", "make_feed_forward"]
