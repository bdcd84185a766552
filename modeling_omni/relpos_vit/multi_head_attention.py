"""Self-attention with the names of the relative position ViT's specification.

Projections and thin words around the library's kernels.

Shapes: B batch, H heads, N tokens, D head width, C embedding size.
"""

import torch
from torch import nn

from ..layers.heads import check_heads
from ..layers.kernels import eager_attention, get_kernel
from ..layers.relative_bias import RelativeBias, RelativePositionBias, bias_for_kernel
from ..layers.token_checks import check_tokens


class ScaledDotProductAttention(nn.Module):
    """softmax(q kᵀ / √D + bias) v (Vaswani et al. 2017, equation 1).

    Args:
        scale: divide the scores by √D.
        dropout: on the attention weights, in training.

    Attributes:
        kernel: name of the kernel in transformers' registry that serves where nobody asks for the weights.

    Raises:
        ValueError: for a dropout outside [0, 1].

    Example:

    ```python
    >>> import torch
    >>> from omnilatent import ScaledDotProductAttention

    >>> query = key = value = torch.randn(2, 4, 9, 16)
    >>> output, weights = ScaledDotProductAttention()(query, key, value, torch.zeros(4, 9, 9))
    >>> output.shape, weights.shape
    (torch.Size([2, 4, 9, 16]), torch.Size([2, 4, 9, 9]))
    ```
    """

    def __init__(self, scale: bool = True, dropout: float = 0.0):
        super().__init__()
        if not 0 <= dropout <= 1:
            raise ValueError(f"`dropout` must lie in [0, 1], got {dropout}.")
        self.scale = scale
        self.dropout = dropout
        self.kernel = "sdpa"

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        relative_position_bias: torch.Tensor | RelativeBias | None = None,
        need_weights: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Args:
            query, key, value: (B, H, N, D); keys and values may be of another number than queries.
            relative_position_bias: (H, N, N), or (B or 1, H, N, N), or a `RelativeBias`; added to the scaled scores.
            need_weights: `False`: a fused kernel sums, which makes no weights.

        Returns:
            The output (B, H, N, D) and the weights (B, H, N, N), or `None` in their place.

        Raises:
            ValueError: for a bias of another shape.
        """
        name = "eager" if need_weights else self.kernel
        kernel = eager_attention if need_weights else get_kernel(name)
        if relative_position_bias is not None:
            relative_position_bias = bias_for_kernel(relative_position_bias, name, query)
        if isinstance(relative_position_bias, torch.Tensor):
            relative_position_bias = _as_scores(relative_position_bias, query, key)
        output, weights = kernel(
            self,
            query,
            key,
            value,
            None,
            scaling=query.shape[-1] ** -0.5 if self.scale else 1.0,
            dropout=self.dropout if self.training else 0.0,
            position_bias=relative_position_bias,
            is_causal=False,
        )
        return output.transpose(1, 2), weights


class MultiHeadAttention(nn.Module):
    """Multi-head self-attention with a relative position bias on the scores (Liu et al. 2021, equation 4).

    Args:
        embed_dim: C.
        num_heads: H; a head is `embed_dim / num_heads` wide.
        dropout: on the attention weights, in training.
        use_relative_position: add a [`RelativePositionBias`].
        rpb_kwargs: its arguments; `num_heads` may be left out.

    Attributes:
        qkv: the projection to queries, keys and values.
        attention: [`ScaledDotProductAttention`].
        proj: the output projection.
        relative_position_bias: [`RelativePositionBias`] or `None`.

    Raises:
        ValueError: for heads that do not divide, a bias without arguments, or one of other heads.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent import MultiHeadAttention

    >>> attention = MultiHeadAttention(
    ...     embed_dim=96,
    ...     num_heads=4,
    ...     use_relative_position=True,
    ...     rpb_kwargs={"num_heads": 4, "window_size": (7, 7), "bias_type": "2d"},
    ... )
    >>> attention(torch.randn(2, 49, 96)).shape
    torch.Size([2, 49, 96])
    ```
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        use_relative_position: bool = False,
        rpb_kwargs: dict | None = None,
    ):
        super().__init__()
        check_heads(embed_dim, num_heads)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.attention = ScaledDotProductAttention(dropout=dropout)
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.relative_position_bias = None
        if use_relative_position:
            self.relative_position_bias = _make_bias(num_heads, rpb_kwargs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """
        Args:
            x: (B, N, C).

        Returns:
            (B, N, C).

        Raises:
            ValueError: for another width, or tokens that are not those of the bias.
        """
        output, _ = self.attention(*self._project(x), self._bias(), need_weights=False)
        return self.proj(output.transpose(1, 2).flatten(2))

    def get_attention_weights(self, x: torch.Tensor) -> torch.Tensor:
        """The weights (B, H, N, N) with which `forward` sums."""
        return self.attention(*self._project(x), self._bias())[1]

    def _bias(self):
        return None if self.relative_position_bias is None else self.relative_position_bias.bias()

    def _project(self, x):
        """(B, N, C) -> queries, keys and values, each (B, H, N, D)."""
        check_tokens("x", x, self.embed_dim)
        if self.relative_position_bias is not None:
            tokens = self.relative_position_bias.relative_position_index.shape[0]
            if x.shape[1] != tokens:
                raise ValueError(f"The relative position bias is made for {tokens} tokens, got {x.shape[1]}.")
        return self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)


def _make_bias(num_heads: int, rpb_kwargs: dict | None) -> RelativePositionBias:
    if rpb_kwargs is None:
        raise ValueError(
            "`use_relative_position` needs `rpb_kwargs`, e.g. {'window_size': (14, 14), 'bias_type': '2d'}."
        )
    bias = RelativePositionBias(**{"num_heads": num_heads, **rpb_kwargs})
    if bias.num_heads != num_heads:
        raise ValueError(f"`rpb_kwargs` has {bias.num_heads} heads, the attention has {num_heads}.")
    if bias.query_size != bias.key_size:
        raise ValueError(
            f"In self-attention queries {bias.query_size} and keys {bias.key_size} are the same: leave out `key_size`."
        )
    return bias


def _as_scores(bias: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """A bias as (B or 1, H, Q, K)."""
    shape = (query.shape[1], query.shape[2], key.shape[2])
    full = bias if bias.ndim == 4 else bias.unsqueeze(0)
    if tuple(full.shape[1:]) != shape or len(full) not in (1, len(query)):
        raise ValueError(f"A bias of shape {tuple(bias.shape)} does not fit {shape}: (heads, queries, keys).")
    return full


__all__ = ["MultiHeadAttention", "ScaledDotProductAttention"]
