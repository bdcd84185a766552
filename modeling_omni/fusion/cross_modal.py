"""Cross-attention between modalities of different widths.

Shapes: B batch, Q queries, K context tokens, D width, C context's width, H heads, d head width.
"""

from typing import Literal

import torch
from torch import nn

from ..layers import RMSNorm
from ..layers.kernels import get_kernel
from ..layers.masks import as_attention_mask, zero_blind_queries
from ..layers.token_checks import check_tokens


class MultiModalCrossAttention(nn.Module):
    """Tokens of one modality attend to those of another.

    Args:
        dim: width of the queries' input and of the output.
        heads: attention heads.
        context_dim: width of the context.
        dim_head: width of a head; `heads * dim_head` need not be `dim`.
        dropout: on the attention weights, in training.
        qk: RMSNorm over each query and key head before the scores (Dehghani et al. 2023, section 2, with RMS in
            LayerNorm's place).
        post_attn_norm: LayerNorm of the output.
        attention_strategy: what of the heads is projected to `dim`: all of them side by side (`"concatenate"`), or their
            mean (`"average"`).
        mask: bool (Q, K), or (B or 1, Q, K) or (B or 1, H or 1, Q, K), True = attend; holds at every call. It moves with
            the module and is no part of its state: a reloaded module has the mask it was constructed with.

    Raises:
        ValueError: for sizes that are not positive, another strategy or a mask of other axes.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent import MultiModalCrossAttention

    >>> attention = MultiModalCrossAttention(dim=64, heads=4, context_dim=48, dim_head=16)
    >>> attention(torch.randn(2, 5, 64), torch.randn(2, 7, 48)).shape
    torch.Size([2, 5, 64])
    ```
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        context_dim: int,
        dim_head: int = 64,
        dropout: float = 0.1,
        qk: bool = False,
        post_attn_norm: bool = False,
        attention_strategy: Literal["concatenate", "average"] = "concatenate",
        mask: torch.Tensor | None = None,
    ):
        super().__init__()
        for name, size in (("dim", dim), ("heads", heads), ("context_dim", context_dim), ("dim_head", dim_head)):
            if size < 1:
                raise ValueError(f"`{name}` must be positive, got {size}.")
        if not 0 <= dropout <= 1:
            raise ValueError(f"`dropout` must lie in [0, 1], got {dropout}.")
        if attention_strategy not in ("concatenate", "average"):
            raise ValueError(f"`attention_strategy` is 'concatenate' or 'average', got {attention_strategy!r}.")
        if mask is not None and mask.ndim not in (2, 3, 4):
            raise ValueError(f"`mask` must have the shape (queries, keys) and may have more axes, got {mask.shape}.")
        self.dim = dim
        self.heads = heads
        self.context_dim = context_dim
        self.dim_head = dim_head
        self.scale = dim_head**-0.5
        self.dropout = dropout
        self.attention_strategy = attention_strategy
        self.kernel = "sdpa"

        self.to_q = nn.Linear(dim, heads * dim_head, bias=False)
        self.to_k = nn.Linear(context_dim, heads * dim_head, bias=False)
        self.to_v = nn.Linear(context_dim, heads * dim_head, bias=False)
        self.q_norm = RMSNorm(dim_head) if qk else nn.Identity()
        self.k_norm = RMSNorm(dim_head) if qk else nn.Identity()
        self.to_out = nn.Linear(heads * dim_head if attention_strategy == "concatenate" else dim_head, dim)
        self.post_attn_norm = nn.LayerNorm(dim) if post_attn_norm else nn.Identity()
        self.register_buffer("mask", None if mask is None else self._full_mask(mask), persistent=False)

    def forward(self, x: torch.Tensor, context: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            x: (B, Q, D).
            context: (B, K, C).
            mask: True or 1 = attend; (B, K), (Q, K), (B, Q, K) or (B, H, Q, K). Joined with the constructor's by and.

        Returns:
            (B, Q, D), 0 for a query that sees no key.

        Raises:
            ValueError: for widths, batches or masks that do not fit, and for an empty context.
        """
        for name, states, size in (("x", x, self.dim), ("context", context, self.context_dim)):
            check_tokens(name, states, size)
        if x.shape[0] != context.shape[0]:
            raise ValueError(f"`x` has {x.shape[0]} samples, `context` has {context.shape[0]}.")
        query = self.q_norm(self._split_heads(self.to_q(x)))
        key = self.k_norm(self._split_heads(self.to_k(context)))
        value = self._split_heads(self.to_v(context))
        mask = self._join_masks(mask, x.shape[0], x.shape[1], context.shape[1])
        output, _ = get_kernel(self.kernel)(
            self,
            query,
            key,
            value,
            mask,
            dropout=self.dropout if self.training else 0.0,
            scaling=self.scale,
            is_causal=False,
        )  # (B, Q, H, d)
        output = output.flatten(2) if self.attention_strategy == "concatenate" else output.mean(dim=2)
        return zero_blind_queries(self.post_attn_norm(self.to_out(output)), mask)

    def _join_masks(self, mask, batch, queries, keys):
        sizes = (batch, self.heads, queries, keys)
        held = None if self.mask is None else as_attention_mask(self.mask, *sizes)
        if mask is None:
            return held
        mask = as_attention_mask(mask, *sizes)
        return mask if held is None else held & mask

    @staticmethod
    def _full_mask(mask):
        """The constructor's mask as (B or 1, H or 1, Q, K): with two axes it is always (Q, K)."""
        return mask[None, None] if mask.ndim == 2 else mask[:, None] if mask.ndim == 3 else mask

    def _split_heads(self, states):
        return states.unflatten(-1, (-1, self.dim_head)).transpose(1, 2)  # (B, T, H * d) -> (B, H, T, d)


__all__ = ["MultiModalCrossAttention"]
