"""Random images with random labels, to try an image classifier."""

import torch
from torch.utils.data import Dataset

from ...configuration.configuration_relpos_vit import check_divisible


class SyntheticImageDataset(Dataset):
    """Images of noise, each with a label drawn at random. An index gives the same sample each time.

    Args:
        num_samples: samples.
        img_size: pixels per side.
        patch_size: pixels per side of the patches that a model will cut.
        in_channels: colour channels.
        num_classes: labels are 0 ... `num_classes` - 1.
        seed: of images and labels.

    Raises:
        ValueError: for images that patches do not divide, or numbers below 1.

    Example:

    ```python
    >>> from omnilatent.training.data import SyntheticImageDataset

    >>> image, label = SyntheticImageDataset(num_samples=8, img_size=32, patch_size=16)[3]
    >>> image.shape, label.shape
    (torch.Size([3, 32, 32]), torch.Size([]))
    ```
    """

    def __init__(
        self,
        num_samples: int,
        img_size: int,
        patch_size: int,
        in_channels: int = 3,
        num_classes: int = 10,
        seed: int = 0,
    ):
        if min(num_samples, in_channels, num_classes) < 1:
            raise ValueError(
                f"Numbers must be at least 1, got {num_samples} samples, {in_channels} channels, {num_classes} classes."
            )
        check_divisible((img_size, img_size), (patch_size, patch_size))
        self.num_samples = num_samples
        self.img_size = img_size
        self.patch_size = patch_size
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.seed = seed

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, idx: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The image (C, H, W) and its label, long ().

        Raises:
            IndexError: for an index outside the dataset.
        """
        if not -self.num_samples <= idx < self.num_samples:
            raise IndexError(f"Sample {idx} of {self.num_samples}.")
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + int(idx) % self.num_samples)
        image = torch.randn(self.in_channels, self.img_size, self.img_size, generator=generator)
        return image, torch.randint(self.num_classes, (), generator=generator)
