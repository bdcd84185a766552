"""Pictures to the tensors that OmniLatent reads, and back, on torchvision or on PIL alone.

Shapes: B pictures, H and W pixels.
"""

import torch
from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_backends import PilBackend, TorchvisionBackend
from transformers.image_utils import PILImageResampling
from transformers.processing_utils import ImagesKwargs, Unpack

from .pixels import CropThenResize, crop_to_mask, open_images, pad_to_largest, to_uint8


class OmniLatentImageProcessorKwargs(ImagesKwargs, total=False):
    """
    patch_size (`int`, *optional*, defaults to 16): Pixels per side of the square that the model turns into one token.
    """

    patch_size: int


class _OmniLatentImages(CropThenResize):
    """What does not depend on the backend: reading bytes, padding, counting tokens and the way back."""

    valid_kwargs = OmniLatentImageProcessorKwargs
    resample = PILImageResampling.BILINEAR
    image_mean = [0.5, 0.5, 0.5]
    image_std = [0.5, 0.5, 0.5]
    size = {"height": 224, "width": 224}
    do_resize = True
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    do_convert_rgb = True
    patch_size = 16
    model_input_names = ["pixel_values"]

    def fetch_images(self, image_url_or_urls):
        """Read paths, URLs and bytes in an image or a (nested) list of images."""
        return super().fetch_images(open_images(image_url_or_urls))

    def _preprocess(self, images, do_pad, pad_size, return_tensors, **kwargs) -> BatchFeature:
        data = super()._preprocess(images, do_pad=False, pad_size=None, return_tensors=None, **kwargs)
        data["pixel_values"], masks = pad_to_largest(list(data["pixel_values"]))
        if masks is not None:
            data["pixel_mask"] = masks
        return BatchFeature(data, tensor_type=return_tensors)

    def num_tokens(self, height: int, width: int) -> int:
        """
        Tokens that the model makes of a picture.

        Raises:
            ValueError: if a side is not a multiple of `patch_size`.
        """
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"An image of {height} x {width} pixels cannot be cut into patches of {self.patch_size} x "
                f"{self.patch_size}: resize it, or crop its sides to multiples of {self.patch_size}."
            )
        return (height // self.patch_size) * (width // self.patch_size)

    def post_process_images(self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor | None = None) -> list:
        r"""
        The way back.

        Args:
            pixel_values (`torch.Tensor` of shape `(B, 3, H, W)`): Normalised pictures.
            pixel_mask (`torch.Tensor` of shape `(B, H, W)`, *optional*): True on real pixels; the rest is cut off.

        Returns:
            `list[PIL.Image.Image]`
        """
        pixel_values = torch.as_tensor(pixel_values)
        if pixel_values.ndim != 4:
            raise ValueError(f"Expected images (B, 3, H, W), got {tuple(pixel_values.shape)}.")
        masks = [None] * len(pixel_values) if pixel_mask is None else pixel_mask
        return [
            Image.fromarray(to_uint8(crop_to_mask(image, mask), self.image_mean, self.image_std))
            for image, mask in zip(pixel_values, masks)
        ]


class OmniLatentImageProcessor(_OmniLatentImages, TorchvisionBackend):
    r"""
    Cuts out the largest middle square, resizes it (224 x 224, bilinear), rescales to [0, 1] and normalises to
    [-1, 1]. For a `size` that is not square, the part that is cut out has its proportions. With `do_resize=False`
    pictures keep their sizes; a batch of different sizes is padded on the right and below and comes with `pixel_mask`
    (B, H, W).

    Reads PIL images, arrays, tensors, paths, URLs, base64 strings and the bytes of picture files.

    Example:

    ```python
    >>> from PIL import Image
    >>> from omnilatent import OmniLatentImageProcessor

    >>> processor = OmniLatentImageProcessor()
    >>> pixel_values = processor(Image.new("RGB", (640, 480), "teal"), return_tensors="pt")["pixel_values"]
    >>> pixel_values.shape
    torch.Size([1, 3, 224, 224])
    >>> processor.post_process_images(pixel_values)[0].size
    (224, 224)
    ```
    """

    def __init__(self, **kwargs: Unpack[OmniLatentImageProcessorKwargs]):
        super().__init__(**kwargs)


class OmniLatentImageProcessorPil(_OmniLatentImages, PilBackend):
    """[`OmniLatentImageProcessor`] on PIL and NumPy, without torchvision."""

    def __init__(self, **kwargs: Unpack[OmniLatentImageProcessorKwargs]):
        super().__init__(**kwargs)


__all__ = ["OmniLatentImageProcessor", "OmniLatentImageProcessorPil"]
