"""`VideoWatchingDataset`: the clips of a folder one by one, for a plain `DataLoader`."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .collate import collate_multimodal, encode_texts
from .collection import VideoCollection
from .device import to_model_inputs
from .skips import Skip, SkipLog

logger = logging.getLogger(__name__)


class VideoWatchingDataset(torch.utils.data.Dataset):
    """
    Map-style dataset of the clips below a folder. An item is ready for the model: `video` (3, T, H, W) and `image`
    (3, H', W') float in [-1, 1], `audio` (M, F) log-mel and `text` (L,) long; `audio` is missing from a clip without
    sound, `text` from one in which nothing is said.

    Any order costs a seek per clip; [`VideoLoader`] reads a folder several times faster.

    A clip that turns out to be damaged is `None`, which [`collate_video_watching`] leaves out. `skips` counts it, and
    each text that had to be cut, with path, time and reason; the first of either is a warning as well. A worker counts
    and warns for itself.

    Args:
        video_dir: Folder of videos, see `scan_folder`.
        config: `OmniLatentConfig`.
        clip_duration: Seconds of a clip.
        clip_stride: Seconds from one clip's start to the next one's.
        tokenizer_fn: `(text, max_len) -> LongTensor` with `max_len = config.max_text_length`; `None`: bytes.

    Raises:
        NoUsableClipsError: when no video can be read.

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
        self.tokenizer_fn = tokenizer_fn
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
        self._warned: set[str] = set()

    def __len__(self) -> int:
        return self._collection.num_clips

    def __getitem__(self, index: int) -> dict[str, torch.Tensor] | None:
        if not -len(self) <= index < len(self):
            raise IndexError(f"Clip {index} of {len(self)}.")
        position = {"epoch": 0, "task": index % len(self)}
        result = self._decoder[next(self._collection.tasks(position, shuffle=False))]
        self.skips.extend(result.skips)
        if len(result):
            return self._item(result.columns)
        self._warn_once("A clip cannot be read and is left out", result.skips[0])
        return None

    def _item(self, columns):
        raw = {name: torch.from_numpy(columns[name]) for name in ("video", "image")}
        if columns["has_audio"][0]:
            raw["audio"] = torch.from_numpy(columns["audio"])
        item = {name: value[0] for name, value in to_model_inputs(raw, self.config).items()}
        words, limit = columns["text"], self.config.max_text_length
        if not words[0]:
            return item
        text, cut = encode_texts(words, self.tokenizer_fn, limit)
        if cut:
            skip = Skip(columns["path"][0], float(columns["start"][0]), 0, f"text cut to {limit} tokens")
            self.skips.extend([skip])
            self._warn_once("A text is too long", skip)
        return {**item, "text": text[0]} if text.any() else item

    def _warn_once(self, what, skip):
        if what not in self._warned:
            self._warned.add(what)
            logger.warning(
                "%s: %s at %.2f s: %s; more of them are only counted, in `skips`.",
                *(what, skip.path, skip.time, skip.reason),
            )


def collate_video_watching(items: Sequence[Mapping[str, torch.Tensor] | None]) -> dict[str, Any]:
    """
    Batch items of a [`VideoWatchingDataset`]: [`collate_multimodal`], with `has_audio` and `has_text` (B,) bool always
    there, and `dropped`, the number of damaged clips, which are left out.

    Raises:
        NoUsableClipsError: when all clips of the batch are damaged.
    """
    batch = {"dropped": 0, **collate_multimodal(items)}
    for modality in ("audio", "text"):
        batch.setdefault(f"has_{modality}", torch.full((len(batch["video"]),), modality in batch))
    return batch
