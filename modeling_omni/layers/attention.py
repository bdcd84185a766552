"""The one attention of the library."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache

from .feature_maps import FeatureMap
from .gated_mask import GatedMask, gated_attention
from .kernels import get_kernel
from .norms import RMSNorm
from .relative_bias import RelativeBias, bias_for_kernel
from .rotary import apply_rotary


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2) with four openings.

    Where keys and values come from (`context`), what turns queries and keys (`rotary` and the per-head norm), what
    joins the scores (`attention_mask` and `position_bias`), and which kernel sums (a name, looked up in transformers'
    registry). Self, cross, grouped, local and biased attention are then data.

    Args:
        hidden_size: width of the queries' input and of the output.
        num_attention_heads: query heads.
        num_key_value_heads: key and value heads; each serves a group of query heads in order (Ainslie et al. 2023).
            `None`: as many as query heads.
        head_dim: width of a head. `None`: `hidden_size / num_attention_heads`.
        context_size: width of the context, where it differs from `hidden_size`.
        bias: biases on the four projections.
        qk_norm: RMSNorm over each query and key head (Dehghani et al. 2023, section 2, with RMS in LayerNorm's
            place).
        dropout: on the attention weights, in training.
        kernel: name of the kernel, or a config whose `_attn_implementation` names it at each call, which is how
            `set_attn_implementation` reaches us.
        is_causal: what a kernel assumes of a missing mask.
        layer_idx: this layer's slot in the cache.
        kernel_options: keywords that go to the kernel at each call, such as the window of sparse attention.
        feature_map: what a kernel of linear attention puts in softmax's place.

    Raises:
        ValueError: when heads do not divide.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent.modeling_omni.layers import Attention

    >>> attention = Attention(hidden_size=64, num_attention_heads=4, context_size=48)
    >>> output, _ = attention(torch.randn(2, 5, 64), context=torch.randn(2, 7, 48))
    >>> output.shape
    torch.Size([2, 5, 64])
    ```
    """

    def __init__(
        self,
        hidden_size: int,
        num_attention_heads: int,
        num_key_value_heads: int | None = None,
        head_dim: int | None = None,
        context_size: int | None = None,
        bias: bool = False,
        qk_norm: bool = False,
        norm_eps: float = 1e-6,
        dropout: float = 0.0,
        kernel: str | PreTrainedConfig = "sdpa",
        is_causal: bool = False,
        layer_idx: int | None = None,
        kernel_options: dict[str, Any] | None = None,
        feature_map: FeatureMap | None = None,
    ):
        super().__init__()
        num_key_value_heads = num_key_value_heads or num_attention_heads
        if head_dim is None:
            if hidden_size % num_attention_heads != 0:
                raise ValueError(
                    f"hidden_size {hidden_size} is not divisible by num_attention_heads {num_attention_heads}."
                )
            head_dim = hidden_size // num_attention_heads
        if num_attention_heads % num_key_value_heads != 0:
            raise ValueError(
                f"num_attention_heads {num_attention_heads} is not divisible by num_key_value_heads {num_key_value_heads}."
            )
        self.head_dim = head_dim
        self.num_key_value_groups = num_attention_heads // num_key_value_heads
        self.scaling = head_dim**-0.5
        self.dropout = dropout
        self.kernel = kernel
        self.is_causal = is_causal
        self.layer_idx = layer_idx
        self.kernel_options = kernel_options or {}
        self.feature_map = feature_map

        context_size = context_size or hidden_size
        self.q_proj = nn.Linear(hidden_size, num_attention_heads * head_dim, bias=bias)
        self.k_proj = nn.Linear(context_size, num_key_value_heads * head_dim, bias=bias)
        self.v_proj = nn.Linear(context_size, num_key_value_heads * head_dim, bias=bias)
        self.o_proj = nn.Linear(num_attention_heads * head_dim, hidden_size, bias=bias)
        self.q_norm = RMSNorm(head_dim, norm_eps) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(head_dim, norm_eps) if qk_norm else nn.Identity()

    @property
    def kernel_name(self) -> str:
        return self.kernel if isinstance(self.kernel, str) else self.kernel._attn_implementation

    def forward(
        self,
        hidden_states: torch.Tensor,
        context: torch.Tensor | None = None,
        attention_mask: torch.Tensor | GatedMask | None = None,
        rotary: tuple[torch.Tensor, torch.Tensor] | None = None,
        position_bias: torch.Tensor | RelativeBias | None = None,
        past_key_values: Cache | None = None,
        key_value: tuple[torch.Tensor, torch.Tensor] | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Args:
            hidden_states: (B, Q, hidden_size), the queries.
            context: (B, K, context_size), keys and values. `None`: the queries themselves.
            attention_mask: as the kernel takes it, e.g. bool (B, 1, Q, K) with True = attend.
            rotary: cosines and sines from `MultiAxisRotary`, for queries and keys alike.
            position_bias: (B or 1, H, Q, K), added to the scores; or a `RelativeBias`, which some kernels look up.
            past_key_values: cache that holds earlier keys and values.
            key_value: keys and values of the context as `project_context` made them before, in its place.

        Returns:
            The output (B, Q, hidden_size), and the weights (B, H, Q, K) from a kernel that makes them.
        """
        query = self.q_norm(self._split_heads(self.q_proj(hidden_states)))
        key, value = key_value or self.project_context(hidden_states if context is None else context)
        if rotary is not None:
            query, key = apply_rotary(query, rotary), apply_rotary(key, rotary)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        if position_bias is not None:
            kwargs["position_bias"] = bias_for_kernel(position_bias, self.kernel_name, query)
        kwargs |= self.kernel_options
        if self.feature_map is not None:
            kwargs["feature_map"] = self.feature_map
        kwargs |= dict(dropout=self.dropout if self.training else 0.0, scaling=self.scaling, is_causal=self.is_causal)
        if isinstance(attention_mask, GatedMask):
            output, weights = gated_attention(self, self.kernel_name, query, key, value, attention_mask, **kwargs)
        else:
            kernel = get_kernel(self.kernel_name)
            output, weights = kernel(self, query, key, value, attention_mask, **kwargs)
        return self.o_proj(output.flatten(2)), weights

    def project_context(self, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (B, G, K, d) of a context (B, K, context_size), before any rotation."""
        return self.k_norm(self._split_heads(self.k_proj(context))), self._split_heads(self.v_proj(context))

    def _split_heads(self, states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, T, H * d) -> (B, H, T, d)
