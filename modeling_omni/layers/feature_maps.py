"""Feature maps φ of linear attention: softmax's exp(q·k) becomes φ(q)·φ(k).

Shapes: B batch, G key and value heads, N tokens, d head width, m features.
"""

import torch
from torch import nn


class FeatureMap(nn.Module):
    """Positive features of queries and of keys.

    A factor that all keys share cancels in attention, and so does one of a query's own. `queries` may take out what it
    likes, `keys` takes out exp(top): `top` starts low and grows with the keys seen so far.
    """

    def width(self, head_dim: int) -> int:
        """Features m of a head."""
        return head_dim

    def queries(self, states: torch.Tensor, scaling: float) -> torch.Tensor:
        """φ of queries (B, G, ..., N, d), times any factor for each: (B, G, ..., N, m)."""
        raise NotImplementedError

    def keys(
        self, states: torch.Tensor, scaling: float, there: torch.Tensor | None, top: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """φ of keys (B, G, N, d), times exp(-top): (B, G, N, m), and the new top (B, G, 1, 1).

        Args:
            there: bool (B, 1, N, 1), False for keys that must not raise the top.
        """
        return self.queries(states, scaling), top


class EluFeatures(FeatureMap):
    """φ(x) = elu(x) + 1 (Katharopoulos et al. 2020, equation 7), which knows no scaling of scores."""

    def queries(self, states, scaling):
        return nn.functional.elu(states) + 1


class ReluFeatures(FeatureMap):
    """φ(x) = relu(x) (Choromanski et al. 2021, section 4, without their constant). A query without features gets 0."""

    def queries(self, states, scaling):
        return states.relu()


class RandomFeatures(FeatureMap):
    """φ(x) = exp(w·x - |x|²/2) for random w, with E[φ(q)·φ(k)] = exp(q·k) (Choromanski et al. 2021, lemma 1).

    The rows w are standard normal one by one and orthogonal in blocks of d, which lowers the estimate's variance
    (theorem 2). They are drawn once, from torch's generator, and saved with the weights. The paper draws anew during
    training; here a model keeps what it learned with. Queries and keys are scaled by the root of the scores' scaling.

    Args:
        head_dim: d.
        num_features: m.
    """

    def __init__(self, head_dim: int, num_features: int):
        super().__init__()
        self.register_buffer("projection", orthogonal_normal(num_features, head_dim))

    def width(self, head_dim):
        return len(self.projection)

    def draw(self) -> torch.Tensor:
        """Another projection, for a model's `_init_weights`."""
        return orthogonal_normal(*self.projection.shape)

    def queries(self, states, scaling):
        exponents = self._exponents(states, scaling)
        return (exponents - exponents.amax(dim=-1, keepdim=True).detach()).exp()

    def keys(self, states, scaling, there, top):
        exponents = self._exponents(states, scaling)
        if there is not None:  # before exp: one above the top may overflow, and 0 times its infinite slope is NaN
            exponents = exponents.masked_fill(~there, float("-inf"))
        top = torch.maximum(top, exponents.detach().amax(dim=(-2, -1), keepdim=True))  # finite, as the old one is
        return (exponents - top).exp(), top

    def _exponents(self, states, scaling):
        states = states * scaling**0.5
        projection = self.projection.to(states.dtype)
        return states @ projection.T - states.pow(2).sum(dim=-1, keepdim=True) / 2

    def extra_repr(self) -> str:
        return f"head_dim={self.projection.shape[1]}, num_features={len(self.projection)}"


def orthogonal_normal(rows: int, width: int) -> torch.Tensor:
    """(rows, width) standard normal rows, orthogonal to each other in blocks of `width`.

    Directions come from QR of a normal matrix, lengths from normal vectors of their own (Yu et al. 2016, section 3).
    """
    blocks = torch.randn(-(-rows // width), width, width, dtype=torch.float32)  # QR has no half precision
    directions = torch.linalg.qr(blocks).Q.transpose(1, 2).reshape(-1, width)[:rows]
    return (directions * torch.randn(rows, width).norm(dim=1, keepdim=True)).to(torch.get_default_dtype())


FEATURE_MAPS = {"elu": EluFeatures, "relu": ReluFeatures}

__all__ = ["EluFeatures", "FEATURE_MAPS", "FeatureMap", "RandomFeatures", "ReluFeatures", "orthogonal_normal"]
