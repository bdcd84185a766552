"""Samples as tensors in memory."""

from collections.abc import Iterable, Mapping

from torch.utils.data import Dataset

from .task_collators import TaskCollator


class EncodedDataset(Dataset):
    """
    Samples encoded once and kept in memory, for data that is small: pictures are neither opened nor resized again.

    Args:
        samples: Of a dataset or a stream.
        collator: Its `encode` makes the tensors, and its `pad` takes them as they are.

    Example:

    ```python
    >>> from transformers import ViTImageProcessorPil
    >>> from types import SimpleNamespace
    >>> from omnilatent import OmniLatentTokenizer
    >>> from omnilatent.training.data import CaptioningCollator, CaptioningDataset, EncodedDataset, make_sample_data

    >>> size = {"height": 32, "width": 32}
    >>> parts = SimpleNamespace(tokenizer=OmniLatentTokenizer(), image_processor=ViTImageProcessorPil(size=size))
    >>> data = CaptioningDataset(make_sample_data("data/sample", num_train=20, num_val=10)["train"])
    >>> encoded = EncodedDataset(data, CaptioningCollator(parts))
    >>> len(encoded), encoded[0]["pixel_values"].shape
    (20, torch.Size([3, 32, 32]))
    ```
    """

    def __init__(self, samples: Iterable[Mapping], collator: TaskCollator, chunk: int = 256):
        self.collator = collator
        self._encoded = []
        waiting = []
        for sample in samples if not hasattr(samples, "__len__") else (samples[i] for i in range(len(samples))):
            waiting.append(sample)
            if len(waiting) == chunk:
                self._encoded += collator.encode(waiting)
                waiting = []
        if waiting:
            self._encoded += collator.encode(waiting)

    def __len__(self) -> int:
        return len(self._encoded)

    def __getitem__(self, index: int) -> dict:
        return self._encoded[index]
