"""From pixels to tokens.

Shapes: B batch, C channels, N patches, D embedding size.
"""

from collections.abc import Sequence

import torch
from torch import nn

from ...configuration.configuration_relpos_vit import as_pair, check_divisible


class PatchProjection(nn.Module):
    """Cut pictures or videos of any size into patches and project each: (B, C, sizes ...) -> (B, N, D).

    It is a convolution whose stride is its kernel, written as a product of matrices, which has a fast kernel for every
    number of axes and every type.

    Args:
        patch_shape: pixels (and frames) of a patch along each axis.
    """

    def __init__(self, patch_shape: Sequence[int], in_channels: int, embed_dim: int):
        super().__init__()
        self.patch_shape = tuple(patch_shape)
        self.in_channels = in_channels
        area = torch.Size(self.patch_shape).numel()
        self.projection = nn.Linear(in_channels * area, embed_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        axes = len(self.patch_shape)
        if x.ndim != 2 + axes or x.shape[1] != self.in_channels:
            sizes = ", ".join(("frames", "height", "width")[-axes:])
            raise ValueError(
                f"Expected pixels (batch, {self.in_channels} channels, {sizes}), got the shape {tuple(x.shape)}."
            )
        check_divisible(tuple(x.shape[2:]), self.patch_shape)
        for axis, patch in enumerate(self.patch_shape):
            x = x.unflatten(2 + 2 * axis, (-1, patch))  # (B, C, places, within, places, within, ...)
        places, within = range(2, 2 + 2 * axes, 2), range(3, 3 + 2 * axes, 2)
        x = x.permute(0, *places, 1, *within)
        return self.projection(x.flatten(1 + axes).flatten(1, axes))


class PatchEmbedding(PatchProjection):
    """Patches of images of one size, projected: (B, C, H, W) -> (B, N, D).

    Args:
        img_size: pixels of an image, one number or (height, width).
        patch_size: pixels of a patch, one number or (height, width).
        in_channels: C.
        embed_dim: D.

    Attributes:
        grid_size: patches along height and width.
        num_patches: N.

    Raises:
        ValueError: for images that patches do not divide, at construction.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent import PatchEmbedding

    >>> PatchEmbedding(img_size=224, patch_size=16, in_channels=3, embed_dim=96)(torch.randn(2, 3, 224, 224)).shape
    torch.Size([2, 196, 96])
    ```
    """

    def __init__(
        self, img_size: int | Sequence[int], patch_size: int | Sequence[int], in_channels: int, embed_dim: int
    ):
        patch_size = as_pair("patch_size", patch_size)
        super().__init__(patch_size, in_channels, embed_dim)
        self.img_size = as_pair("img_size", img_size)
        check_divisible(self.img_size, patch_size)
        self.grid_size = tuple(size // patch for size, patch in zip(self.img_size, patch_size))
        self.num_patches = self.grid_size[0] * self.grid_size[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if tuple(x.shape[2:]) != self.img_size:
            raise ValueError(f"Expected images of {self.img_size} pixels, got the shape {tuple(x.shape)}.")
        return super().forward(x)


__all__ = ["PatchEmbedding", "PatchProjection"]
