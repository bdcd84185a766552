"""What is changed in images while a classifier learns, and how they become a batch.

Shapes: B batch, C channels, L labels.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from PIL import Image
from torchvision.transforms import v2
from transformers import BaseImageProcessor
from transformers.image_utils import pil_torch_interpolation_mapping


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """What is drawn on the CPU inside comes from this seed; outside it is as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed also seeds all GPUs, which takes milliseconds
        yield


class TrainingTransform:
    """
    A random crop, a flip and RandAugment (Cubuk et al. 2020), then what the image processor does except for sizes; so
    the values are those that the model gets anywhere else.

    Args:
        processor: Whose size, or crop size, the picture gets.
        min_crop: Smallest share of the picture that a random crop keeps (Szegedy et al. 2015). 1: always all of it.
        flip: Mirror every second picture.
        randaugment: Strength of two random changes of colour or shape, 0 to 30; 0: none.

    Raises:
        ValueError: for a share or a strength outside these.
    """

    def __init__(self, processor: BaseImageProcessor, min_crop: float = 0.25, flip: bool = True, randaugment: int = 0):
        if not 0 < min_crop <= 1 or not 0 <= randaugment <= 30:
            raise ValueError(
                f"`min_crop` must lie in (0, 1] and `randaugment` in [0, 30], got {min_crop} and {randaugment}."
            )
        self.processor = processor
        size = input_size(processor)
        how = {"interpolation": pil_torch_interpolation_mapping[processor.resample], "antialias": True}
        steps = [v2.RandomResizedCrop(size, (min_crop, 1.0), **how) if min_crop < 1 else v2.Resize(size, **how)]
        if flip:
            steps.append(v2.RandomHorizontalFlip())
        if randaugment:
            steps.append(v2.RandAugment(magnitude=randaugment))
        self.steps = v2.Compose(steps)

    def __call__(self, picture: Image.Image) -> torch.Tensor:
        """(C, H, W)."""
        return to_pixels(self.processor, self.steps(picture), do_resize=False, do_center_crop=False)


class EvaluationTransform:
    """What the image processor does, as in a pipeline."""

    def __init__(self, processor: BaseImageProcessor):
        self.processor = processor

    def __call__(self, picture: Image.Image) -> torch.Tensor:
        return to_pixels(self.processor, picture)


def to_pixels(processor, picture, **settings) -> torch.Tensor:
    """(C, H, W)."""
    return processor(picture, return_tensors="pt", **settings)["pixel_values"][0]


def input_size(processor: BaseImageProcessor) -> list[int]:
    """[height, width] of what an image processor gives.

    Raises:
        ValueError: for one that keeps pictures' own shapes.
    """
    size = processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size
    if "height" in size and "width" in size:
        return [size["height"], size["width"]]
    if "shortest_edge" in size and "longest_edge" not in size:
        return [size["shortest_edge"]] * 2
    raise ValueError(f"The image processor gives no fixed size: {dict(size)}.")


class ImageCollator:
    """
    Samples to a batch; of training samples, a share of each picture and of its label is replaced by another sample's.

    Args:
        num_labels: L.
        mixup: Both pictures everywhere, in shares from Beta(mixup, mixup) (Zhang et al. 2018); 0: not.
        cutmix: A rectangle of the other picture, its area likewise (Yun et al. 2019); 0: not. With both, each batch
            gets one of the two.

    Raises:
        ValueError: for a negative one.
    """

    def __init__(self, num_labels: int, mixup: float = 0.0, cutmix: float = 0.0):
        if min(mixup, cutmix) < 0:
            raise ValueError(f"`mixup` and `cutmix` must not be negative, got {mixup} and {cutmix}.")
        ways = [v2.MixUp(alpha=mixup, num_classes=num_labels)] if mixup else []
        ways += [v2.CutMix(alpha=cutmix, num_classes=num_labels)] if cutmix else []
        self.mix: Callable | None = v2.RandomChoice(ways) if ways else None

    def __call__(self, samples: Sequence[dict]) -> dict:
        """`pixel_values` (B, C, H, W), `labels` long (B,) or, where mixed, float (B, L), and `bad` of all samples."""
        pixels = torch.stack([sample["pixel_values"] for sample in samples])
        labels = torch.tensor([sample["labels"] for sample in samples])
        if self.mix is not None and "seed" in samples[0]:
            with drawing_from(samples[0]["seed"] // 2):
                pixels, labels = self.mix(pixels, labels)
        return {"pixel_values": pixels, "labels": labels, "bad": [bad for sample in samples for bad in sample["bad"]]}


__all__ = ["EvaluationTransform", "ImageCollator", "TrainingTransform", "drawing_from", "input_size"]
