"""Cross- and self-attention with the projections of the aligner's specification.

They hold projections and hand over to the library's kernels; masks mean True = attend, and a query that sees no key
gets 0.

Shapes: B batch, Q queries, K keys, D width, H heads.
"""

import torch
from torch import nn

from ..layers.heads import HeadsDoNotDivideError, check_heads
from ..layers.kernels import get_kernel
from ..layers.masks import as_attention_mask, zero_blind_queries
from ..layers.token_checks import check_tokens


class _StreamAttention(nn.Module):
    """What cross- and self-attention share: the heads, the kernel and the way out."""

    def __init__(self, dim: int, num_heads: int, dropout: float, bias: bool, head_dim: int, num_key_value_heads: int):
        super().__init__()
        if not 0 <= dropout <= 1:
            raise ValueError(f"`dropout` must lie in [0, 1], got {dropout}.")
        self.dim = dim
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.num_key_value_groups = num_heads // num_key_value_heads
        self.scale = head_dim**-0.5
        self.kernel = "sdpa"
        self.out_proj = nn.Linear(num_heads * head_dim, dim, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def reset_parameters(self):
        """Xavier weights and no biases, as in torch's MultiheadAttention.

        `nn.Linear`'s own start shrinks what samples differ in by three at each projection and adds the same random
        bias to all of them; after two attentions their outputs would be nearly one vector.
        """
        for linear in (module for module in self.modules() if isinstance(module, nn.Linear)):
            nn.init.xavier_uniform_(linear.weight)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    def attend(self, query, key, value, mask=None):
        """What the kernel makes of projected states (B, T, heads * head_dim); no output projection yet."""
        query, key, value = (
            states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for states in (query, key, value)
        )
        output, _ = get_kernel(self.kernel)(
            self,
            query,
            key,
            value,
            mask,
            dropout=self.dropout.p if self.training else 0.0,
            scaling=self.scale,
            is_causal=False,
        )
        return output.flatten(2)

    def _attend_and_project(self, query, key, value, mask):
        if mask is not None:
            mask = as_attention_mask(mask, len(query), self.num_heads, query.shape[1], key.shape[1])
        return zero_blind_queries(self.out_proj(self.attend(query, key, value, mask)), mask)


class CrossAttention(_StreamAttention):
    """Queries of one modality attend to keys and values of another (Vaswani et al. 2017, section 3.2).

    Args:
        dim: width of all inputs and of the output.
        num_heads: query heads; they divide `dim`.
        dropout: on the attention weights, in training.
        bias: biases on the four projections.
        num_key_value_heads: key and value heads, each serving a group of query heads in order (Ainslie et al. 2023).
            `None`: as many as query heads.
        head_dim: width of a head. `None`: `dim / num_heads`.

    Raises:
        HeadsDoNotDivideError: a ValueError and an AssertionError, when heads do not divide.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent import CrossAttention

    >>> attention = CrossAttention(dim=64, num_heads=4)
    >>> attention(torch.randn(2, 5, 64), torch.randn(2, 10, 64), torch.randn(2, 10, 64)).shape
    torch.Size([2, 5, 64])
    ```
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        *,
        num_key_value_heads: int | None = None,
        head_dim: int | None = None,
    ):
        num_key_value_heads = num_heads if num_key_value_heads is None else num_key_value_heads
        check_heads(dim if head_dim is None else num_heads * head_dim, num_heads, num_key_value_heads)
        head_dim = dim // num_heads if head_dim is None else head_dim
        super().__init__(dim, num_heads, dropout, bias, head_dim, num_key_value_heads)
        self.q_proj = nn.Linear(dim, num_heads * head_dim, bias=bias)
        self.k_proj = nn.Linear(dim, num_key_value_heads * head_dim, bias=bias)
        self.v_proj = nn.Linear(dim, num_key_value_heads * head_dim, bias=bias)
        self.reset_parameters()

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        Args:
            query: (B, Q, D).
            key, value: (B, K, D).
            mask: True or 1 = attend; (B, K), (Q, K), (B, Q, K) or (B, H, Q, K).

        Returns:
            (B, Q, D), 0 for a query that sees no key.

        Raises:
            ValueError: for widths, batches, lengths or a mask that do not fit, and for no keys at all.
        """
        for name, states in (("query", query), ("key", key), ("value", value)):
            check_tokens(name, states, self.dim)
            if len(states) != len(query):
                raise ValueError(f"`{name}` has {len(states)} samples, `query` has {len(query)}.")
        if key.shape[1] != value.shape[1]:
            raise ValueError(f"There are {key.shape[1]} keys but {value.shape[1]} values: expected one value a key.")
        return self._attend_and_project(self.q_proj(query), self.k_proj(key), self.v_proj(value), mask)


class SelfAttention(_StreamAttention):
    """Tokens of one sequence attend to each other; one projection makes queries, keys and values.

    Args:
        dim: width of input and output.
        num_heads: heads; they divide `dim`.
        dropout: on the attention weights, in training.
        bias: biases on the projections.

    Raises:
        HeadsDoNotDivideError: a ValueError and an AssertionError, when heads do not divide.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent import SelfAttention

    >>> SelfAttention(dim=64, num_heads=4)(torch.randn(2, 10, 64)).shape
    torch.Size([2, 10, 64])
    ```
    """

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True):
        check_heads(dim, num_heads)
        super().__init__(dim, num_heads, dropout, bias, dim // num_heads, num_heads)
        self.qkv_proj = nn.Linear(dim, 3 * dim, bias=bias)
        self.reset_parameters()

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            x: (B, T, D).
            mask: True or 1 = attend; (B, T), (T, T), (B, T, T) or (B, H, T, T).

        Returns:
            (B, T, D), 0 for a token that sees none.
        """
        check_tokens("x", x, self.dim)
        return self._attend_and_project(*self.qkv_proj(x).chunk(3, dim=-1), mask)


__all__ = ["CrossAttention", "HeadsDoNotDivideError", "SelfAttention"]
