"""The relative position ViT of the specification as plain modules.

Shapes: B batch, N tokens, C embedding size.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn

from .absolute_positions import AbsolutePositions
from .multi_head_attention import MultiHeadAttention
from .patch_embedding import PatchEmbedding


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Args:
        embed_dim: C.
        num_heads: attention heads; they divide C.
        mlp_ratio: the MLP's hidden layer is so many times as wide as C.
        dropout: on the attention weights and in the MLP and on the output of both, in training.
        use_relative_position, rpb_kwargs: see [`MultiHeadAttention`].

    Example:

    ```python
    >>> import torch
    >>> from omnilatent import TransformerBlock

    >>> rpb = {"window_size": (5, 6), "bias_type": "2d"}
    >>> block = TransformerBlock(embed_dim=64, num_heads=4, use_relative_position=True, rpb_kwargs=rpb)
    >>> block(torch.randn(2, 30, 64)).shape
    torch.Size([2, 30, 64])
    ```
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        use_relative_position: bool = False,
        rpb_kwargs: dict | None = None,
    ):
        super().__init__()
        hidden = int(embed_dim * mlp_ratio)
        if hidden < 1:
            raise ValueError(f"`mlp_ratio` {mlp_ratio} leaves no hidden layer.")
        self.norm1 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.attn = MultiHeadAttention(embed_dim, num_heads, dropout, use_relative_position, rpb_kwargs)
        self.norm2 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(embed_dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, embed_dim)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, C) -> (B, N, C)."""
        x = x + self.dropout(self.attn(self.norm1(x)))
        return x + self.dropout(self.mlp(self.norm2(x)))


class VisionTransformer(nn.Module):
    """Classify images from their patches (Dosovitskiy et al. 2021).

    The embedding is the mean over the patches, or the class token where there is one. With a relative position bias the
    patches carry no positions of their own; without it learned ones are added to them.

    Args:
        img_size: pixels of an image, one number or (height, width).
        patch_size: pixels of a patch, one number or (height, width).
        in_channels: colour channels.
        num_classes: logits.
        embed_dim: C.
        depth: blocks.
        num_heads: attention heads; they divide C.
        mlp_ratio: see [`TransformerBlock`].
        dropout: see [`TransformerBlock`]; on the embedded patches, too.
        use_relative_position: add a relative position bias in each block.
        rpb_kwargs: arguments of [`RelativePositionBias`]; its window is the grid of patches, e.g. (14, 14).
        class_token: put a learned token before the patches; the bias needs `class_token=True`, too.

    Raises:
        ValueError: for images that patches do not divide, a window that is not the grid of patches, or a class token
            for which the bias has no entries.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent import VisionTransformer

    >>> model = VisionTransformer(
    ...     img_size=64,
    ...     patch_size=16,
    ...     in_channels=3,
    ...     num_classes=10,
    ...     embed_dim=48,
    ...     depth=2,
    ...     num_heads=4,
    ...     use_relative_position=True,
    ...     rpb_kwargs={"num_heads": 4, "window_size": (4, 4), "bias_type": "2d"},
    ... )
    >>> model(torch.randn(2, 3, 64, 64)).shape
    torch.Size([2, 10])
    ```
    """

    def __init__(
        self,
        img_size: int | Sequence[int],
        patch_size: int | Sequence[int],
        in_channels: int,
        num_classes: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        use_relative_position: bool = False,
        rpb_kwargs: dict | None = None,
        class_token: bool = False,
    ):
        super().__init__()
        self.patch_embed = PatchEmbedding(img_size, patch_size, in_channels, embed_dim)
        grid_size = self.patch_embed.grid_size
        self.class_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if class_token else None
        self.positions = None if use_relative_position else AbsolutePositions(grid_size, embed_dim, class_token)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(embed_dim, num_heads, mlp_ratio, dropout, use_relative_position, rpb_kwargs)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.head = nn.Linear(embed_dim, num_classes)
        for block in self.blocks:
            _check_bias(block.attn.relative_position_bias, grid_size, class_token)
        self.reset_parameters()

    def reset_parameters(self):
        """Small weights and no biases, as ViTs begin."""
        for linear in (module for module in self.modules() if isinstance(module, nn.Linear)):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        if self.class_token is not None:
            nn.init.trunc_normal_(self.class_token, std=0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """
        Args:
            x: images (B, channels, height, width).

        Returns:
            Logits (B, num_classes).

        Raises:
            ValueError: for images of another size; [`RelPosViTModel`] takes any.
        """
        x = self.patch_embed(x)
        if self.class_token is not None:
            x = torch.cat([self.class_token.to(x.dtype).expand(len(x), -1, -1), x], dim=1)
        if self.positions is not None:
            x = x + self.positions()
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x.mean(dim=1) if self.class_token is None else x[:, 0])


def _check_bias(bias, grid_size, class_token):
    if bias is None:
        return
    fits = (
        bias.query_size == grid_size if bias.bias_type == "2d" else math.prod(bias.query_size) == math.prod(grid_size)
    )
    if not fits:
        raise ValueError(
            f"The bias is made for tokens {bias.query_size}, the images have {grid_size} patches: "
            f"{math.prod(bias.query_size)} and {math.prod(grid_size)} tokens."
        )
    if bias.class_token != class_token:
        entries = "entries" if bias.class_token else "no entries"
        raise ValueError(
            f"The bias has {entries} for a class token, but the model's `class_token` is {class_token}: give the same "
            "`class_token` in `rpb_kwargs`."
        )


__all__ = ["TransformerBlock", "VisionTransformer"]
