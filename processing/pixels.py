"""What images and video share: reading bytes, cropping, padding a batch to one size, and the way back to 8 bits.

Shapes: T frames, H and W pixels.
"""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers.image_utils import load_image

from .media import describe


def open_images(images):
    """
    Replace paths, URLs, base64 strings and encoded bytes in an image or a (nested) list of images by upright RGB
    pictures; decoded images stay as they are.

    Raises:
        ValueError: for what is no complete picture.
    """
    if isinstance(images, (list, tuple)):
        return [open_images(image) for image in images]
    if isinstance(images, (str, Path, bytes, bytearray)):
        return _open_image(images)
    return images


def _open_image(source: str | Path | bytes) -> Image.Image:
    try:
        if isinstance(source, (bytes, bytearray)):
            with Image.open(io.BytesIO(source)) as image:
                return load_image(image)
        return load_image(str(source))
    except OSError as error:  # PIL's own errors are of this kind
        raise ValueError(f"Cannot decode {describe(source)} as a picture: {error}") from error


class CropThenResize:
    """
    Resizing to a fixed height and width, for a processor of transformers: the picture keeps its proportions and loses
    its ends, as in training.
    """

    def resize(self, image, size, *args, **kwargs):
        """Cut (..., H, W) to the proportions of `size`, where that has both sides, and resize."""
        if size.height and size.width:
            image = crop_to_proportions(image, size.height, size.width)
        return super().resize(image, size, *args, **kwargs)


def crop_to_proportions(pixels, height: int, width: int):
    """
    The largest middle part of a picture with the proportions of another.

    Args:
        pixels: Tensor or array (..., H, W).
        height, width: Of the other picture.

    Returns:
        A view (..., H', W') with `H' / W'` as near to `height / width` as whole pixels allow.
    """
    whole_height, whole_width = pixels.shape[-2:]
    kept_height = min(whole_height, max(1, round(whole_width * height / width)))
    kept_width = min(whole_width, max(1, round(whole_height * width / height)))
    top, left = (whole_height - kept_height) // 2, (whole_width - kept_width) // 2
    return pixels[..., top : top + kept_height, left : left + kept_width]


def pad_to_largest(batch: list) -> tuple[list, list | None]:
    """
    Pad tensors or arrays of one rank with zeros, at the end of each dimension, to the largest of them.

    Args:
        batch: Pictures (3, H, W) or videos (T, 3, H, W).

    Returns:
        The padded batch, and for each a bool mask (H, W) or (T, H, W), True on real pixels; `None` in place of the
        masks when all have the same shape.
    """
    largest = tuple(np.max([item.shape for item in batch], axis=0))
    if all(tuple(item.shape) == largest for item in batch):
        return batch, None
    padded, masks = [], []
    for item in batch:
        real = tuple(slice(0, length) for length in item.shape)
        if isinstance(item, torch.Tensor):
            target, mask = item.new_zeros(largest), torch.zeros(largest, dtype=torch.bool, device=item.device)
        else:
            target, mask = np.zeros(largest, dtype=item.dtype), np.zeros(largest, dtype=bool)
        target[real], mask[real] = item, True
        padded.append(target)
        masks.append(mask[..., 0, :, :])  # the channels agree
    return padded, masks


def crop_to_mask(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Undo `pad_to_largest` for one picture (3, H, W) or video (T, 3, H, W)."""
    if mask is None:
        return values
    lengths = (torch.as_tensor(mask).nonzero().amax(dim=0) + 1).tolist()
    *frames, height, width = lengths
    return values[..., :height, :width] if not frames else values[: frames[0], :, :height, :width]


def to_uint8(values: torch.Tensor, mean, std) -> np.ndarray:
    """
    Undo normalisation: (..., 3, H, W) float to (..., H, W, 3) uint8, rounded, and clipped to 0..255.

    Args:
        values: Normalised pixels; at mean and std 0.5 they lie in [-1, 1].
        mean, std: One number, or one for each channel.

    Raises:
        ValueError: if there are not 3 channels, or a value is not finite.
    """
    values = torch.as_tensor(values).detach().float().cpu()
    if values.ndim < 3 or values.shape[-3] != 3:
        raise ValueError(f"Expected pixels (..., 3, H, W), got {tuple(values.shape)}.")
    if not values.isfinite().all():
        raise ValueError("The pixels hold values that are not finite.")
    mean, std = (torch.as_tensor(number, dtype=torch.float32).reshape(-1, 1, 1) for number in (mean, std))
    return ((values * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).movedim(-3, -1).numpy()
