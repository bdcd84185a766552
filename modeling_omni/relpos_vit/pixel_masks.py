"""Pictures of different sizes in one batch.

Shapes: B batch, N patches.
"""

import torch

from ...configuration.configuration_relpos_vit import check_divisible
from ..layers.value_checks import check_values


def read_pixel_mask(pixel_mask: torch.Tensor, patch_shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Which patches are real, and how many each sample has along each axis.

    Args:
        pixel_mask: (B, sizes ...), True or 1 where a pixel is real. A sample is a block at the beginning of each axis,
            of whole patches.

    Returns:
        Bool (B, N) and long (B, axes).

    Raises:
        ValueError: for sizes that patches do not divide, values that are neither 0 nor 1, and a sample that is no such
            block or holds nothing.
    """
    axes = pixel_mask.ndim - 1
    real = pixel_mask.bool()
    check_values(
        pixel_mask == real, "`pixel_mask` must hold 1 where a pixel is real and 0 elsewhere, and no other value."
    )
    pixels = _by_patch(real, patch_shape)
    patches = pixels.all(dim=-1)  # (B, places ...)
    sizes, block = [], torch.ones_like(patches)
    for axis in range(axes):
        others = tuple(1 + other for other in range(axes) if other != axis)
        size = patches.any(dim=others).sum(dim=1)
        places = torch.arange(patches.shape[1 + axis], device=patches.device)
        inside = (places < size[:, None]).view(
            patches.shape[0], *(-1 if other == axis else 1 for other in range(axes))
        )
        sizes.append(size)
        block = block & inside
    sizes = torch.stack(sizes, dim=1)
    right = (
        (patches == block).flatten(1).all(dim=1)
        & (pixels.any(dim=-1) == patches).flatten(1).all(dim=1)
        & (sizes > 0).all(dim=1)
    )
    rule = (
        f"`pixel_mask` must mark a block of whole patches of {patch_shape} pixels at the beginning of each axis for each "
        "sample"
    )
    check_values(right, f"{rule}.", lambda: f"{rule}; {_describe_first(real, ~right)}.")
    return patches.flatten(1), sizes


def fill_patches(pixel_mask: torch.Tensor, patch_shape: tuple[int, ...]) -> torch.Tensor:
    """A mask of whole patches: of those that hold a real pixel, and of the first one where a sample holds nothing.

    Args:
        pixel_mask: bool (B, sizes ...).

    Returns:
        Bool, in the same shape.
    """
    patches = _by_patch(pixel_mask, patch_shape).any(dim=-1)  # (B, places ...)
    first = torch.zeros_like(patches.flatten(1))
    first[:, 0] = ~patches.flatten(1).any(dim=1)
    patches = patches | first.view_as(patches)
    for axis, patch in enumerate(patch_shape):
        patches = patches.repeat_interleave(patch, dim=1 + axis)
    return patches


def _describe_first(real, wrong):
    """How many pixels along each axis the first of some samples marks."""
    sample = int(wrong.nonzero()[0])
    axes = range(real.ndim - 1)
    size = tuple(int(real[sample].movedim(axis, 0).flatten(1).any(dim=1).sum()) for axis in axes)
    return f"sample {sample} marks {size} of {tuple(real.shape[1:])} pixels"


def _by_patch(mask, patch_shape):
    """(B, sizes ...) -> (B, places ..., pixels of a patch)."""
    check_divisible(tuple(mask.shape[1:]), patch_shape)
    axes = len(patch_shape)
    for axis, patch in enumerate(patch_shape):
        mask = mask.unflatten(1 + 2 * axis, (-1, patch))  # (B, places, within, places, within, ...)
    return mask.permute(0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2)).flatten(1 + axes)
