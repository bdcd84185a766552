"""Many tokens to one vector.

Shapes: B batch, N tokens, D width, Q learned queries.
"""

import torch
from torch import nn

from ...configuration.configuration_multimodal import FusionConfig
from ..layers import Attention


def pool_mean(tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Mean of the real tokens, (B, N, D) -> (B, D); 0 where there is none.

    Args:
        mask: bool (B, N), True where real; `None`: all are.
    """
    if mask is None:
        return tokens.mean(dim=1)
    mask = mask.unsqueeze(-1)
    return tokens.masked_fill(~mask, 0).sum(dim=1) / mask.sum(dim=1).clamp(min=1).to(tokens.dtype)


def pool_first(tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """The first real token, which is the class token where there is one; 0 where there is none."""
    if mask is None:
        return tokens[:, 0]
    first = mask.to(torch.uint8).argmax(dim=1)
    taken = tokens.gather(1, first[:, None, None].expand(-1, 1, tokens.shape[-1])).squeeze(1)
    return taken.masked_fill(~mask.any(dim=1, keepdim=True), 0)


class AttentionalPooling(nn.Module):
    """Learned queries read tokens by cross-attention (Lee et al. 2019, section 3.2, PMA, without its feed-forward).

    Args:
        hidden_size: D.
        num_attention_heads: heads.
        num_queries: Q.
        head_dim: width of a head. `None`: D / `num_attention_heads`.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent.modeling_omni.fusion.pooling import AttentionalPooling

    >>> AttentionalPooling(hidden_size=32, num_attention_heads=4)(torch.randn(2, 7, 32)).shape
    torch.Size([2, 32])
    ```
    """

    def __init__(self, hidden_size: int, num_attention_heads: int, num_queries: int = 1, head_dim: int | None = None):
        super().__init__()
        self.queries = nn.Parameter(torch.empty(1, num_queries, hidden_size))
        self.attention = Attention(hidden_size, num_attention_heads, head_dim=head_dim, bias=True)
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.normal_(self.queries, std=1.0)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            tokens: (B, N, D).
            mask: bool (B, N), True where real; `None`: all are.

        Returns:
            (B, D) for one query, otherwise (B, Q, D).
        """
        queries = self.queries.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
        if mask is not None:
            mask = mask[:, None, None, :].expand(-1, 1, queries.shape[1], -1)
        pooled, _ = self.attention(queries, context=tokens, attention_mask=mask)
        return pooled.squeeze(1) if queries.shape[1] == 1 else pooled


class Pooling(nn.Module):
    """One of `"attention"`, `"mean"` and `"cls"`, then a norm.

    Args:
        config: which one, and its sizes.
        norm: the norm of the pooled vector.
    """

    def __init__(self, config: FusionConfig, norm: nn.Module):
        super().__init__()
        self.config = config
        self.queries = None
        if config.pooling == "attention":
            heads, head_dim = config.num_attention_heads, config.head_dim
            self.queries = AttentionalPooling(config.hidden_size, heads, head_dim=head_dim)
        self.norm = norm

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """(B, N, D) tokens and bool (B, N) mask to (B, D)."""
        if self.queries is not None:
            return self.norm(self.queries(tokens, mask))
        return self.norm({"mean": pool_mean, "cls": pool_first}[self.config.pooling](tokens, mask))
