"""`VideoWatchingDataset`: the clips of a folder one by one, for a plain `DataLoader`."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from .collate import collate_multimodal, encode_bytes
from .collection import VideoCollection
from .device import to_model_inputs
from .skips import NoUsableClipsError, SkipLog

logger = logging.getLogger(__name__)


class VideoWatchingDataset(torch.utils.data.Dataset):
    """
    Map-style dataset of the clips below a folder. An item is ready for the model: `video` (3, T, H, W) and `image`
    (3, H', W') float in [-1, 1], `audio` (M, F) log-mel and `text` (L,) long; `audio` is missing from a clip without
    sound, `text` from one in which nothing is said.

    Any order costs a seek per clip; [`VideoLoader`] reads a folder several times faster.

    A clip that turns out to be damaged is replaced by the next good one, with a warning and a count in `skips` (of
    this process: a worker counts for itself).

    Args:
        video_dir: Folder of videos, see `scan_folder`.
        config: `OmniLatentConfig`.
        clip_duration: Seconds of a clip.
        clip_stride: Seconds from one clip's start to the next one's.
        tokenizer_fn: `(text, max_len) -> LongTensor` with `max_len = config.max_text_length`; `None`: bytes.

    Raises:
        NoUsableClipsError: when no clip can be read.

    Example:

    ```python
    >>> from torch.utils.data import DataLoader
    >>> from omnilatent import OmniLatentConfig
    >>> from omnilatent.training.data import VideoWatchingDataset, collate_video_watching

    >>> dataset = VideoWatchingDataset("videos", OmniLatentConfig(), clip_duration=2.0, clip_stride=1.0)
    >>> batch = next(iter(DataLoader(dataset, batch_size=2, collate_fn=collate_video_watching)))
    >>> batch["video"].shape
    torch.Size([2, 3, 16, 112, 112])
    ```
    """

    def __init__(
        self,
        video_dir: str | Path,
        config,
        clip_duration: float = 2.0,
        clip_stride: float = 1.0,
        tokenizer_fn: Callable[[str, int], torch.Tensor] | None = None,
    ):
        self.config = config
        self.tokenizer_fn = tokenizer_fn or encode_bytes
        # a segment and a task of one clip each: task i is clip i
        self._collection = VideoCollection.from_folder(
            video_dir,
            config,
            clip_duration=clip_duration,
            clip_stride=clip_stride,
            segment_duration=clip_stride,
            segments_per_task=1,
        )
        self._decoder = self._collection.decoder()
        self.skips = SkipLog(self._collection.skips.examples)

    def __len__(self) -> int:
        return self._collection.num_clips

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"Clip {index} of {len(self)}.")
        position = {"epoch": 0, "task": index % len(self)}
        for tried, task in zip(range(len(self)), self._collection.tasks(position, shuffle=False)):
            result = self._decoder[task]
            self.skips.extend(result.skips)
            if len(result):
                return self._item(result.columns)
            if tried == 0:
                logger.warning("Clip %d cannot be read, the next good one replaces it: %s", index, result.skips[0])
        raise NoUsableClipsError(f"None of {len(self)} clips can be read:\n{self.skips}")

    def _item(self, columns):
        raw = {name: torch.from_numpy(columns[name]) for name in ("video", "image")}
        if columns["has_audio"][0]:
            raw["audio"] = torch.from_numpy(columns["audio"])
        item = {name: value[0] for name, value in to_model_inputs(raw, self.config).items()}
        text = self.tokenizer_fn(columns["text"][0], self.config.max_text_length) if columns["text"][0] else ()
        return {**item, "text": text} if len(text) else item


def collate_video_watching(items: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """
    Batch items of a [`VideoWatchingDataset`]: [`collate_multimodal`], with `has_audio` and `has_text` (B,) bool always
    there.
    """
    batch = collate_multimodal(items)
    for modality in ("audio", "text"):
        batch.setdefault(f"has_{modality}", torch.full((len(items),), modality in batch))
    return batch
