"""One batch as the trainer and the evaluation see it: tensors by view, and which rows really have them.

Shapes: B batch, L text tokens, M mel bands, F mel frames, C colours, N video frames, H and W pixels.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch

from ..configuration.layout import lay_out, target_size
from ..configuration.modalities import AUDIO, MODALITIES, TEXT
from .data import past_and_future, to_model_inputs
from .pairs import FUTURE, PAST, VIEWS


@dataclass
class MultimodalBatch:
    """
    Args:
        values: Tensor of each modality, with the shapes of `configuration.layout.lay_out`.
        masks: For some of them a mask, True where real: audio (B, F), image (B, H, W), video (B, N, H, W).
        present: (B,) bool on the CPU for each of `values`: the rows that have it.
    """

    values: dict[str, torch.Tensor]
    masks: dict[str, torch.Tensor]
    present: dict[str, torch.Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    @property
    def device(self) -> torch.device:
        return next(iter(self.values.values())).device

    def rows_with(self, views: Collection[str]) -> torch.Tensor:
        """(B,) bool on the CPU: the rows that have all of these views."""
        rows = torch.ones(len(self), dtype=torch.bool)
        for name in {VIEWS[view] for view in views}:
            rows &= self.present.get(name, torch.zeros(len(self), dtype=torch.bool))
        return rows

    def take(self, rows: torch.Tensor) -> "MultimodalBatch":
        """The rows of a (B,) bool mask, or of indices, both on the CPU."""
        if rows.dtype == torch.bool and rows.all():
            return self
        index = rows.nonzero().squeeze(1) if rows.dtype == torch.bool else rows
        on_device = index.to(self.device)
        return MultimodalBatch(
            {name: values.index_select(0, on_device) for name, values in self.values.items()},
            {name: mask.index_select(0, on_device) for name, mask in self.masks.items()},
            {name: present[index] for name, present in self.present.items()},
        )

    def view(self, name: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Tensor and mask of a modality, or of the video's "past" or "future"."""
        values, mask = self.values[VIEWS[name]], self.masks.get(VIEWS[name])
        if name not in (PAST, FUTURE):
            return values, mask
        half = 0 if name == PAST else 1
        values = past_and_future(values.transpose(1, 2))[half].transpose(1, 2)
        if mask is not None:
            mask = past_and_future(mask.unsqueeze(2))[half].squeeze(2)
        return values, mask

    def lay_out(self, config, source: str, targets: Sequence[str], contrast: bool = False, shift: int = 0) -> dict:
        """
        Keyword arguments of the model that predict the targets from the source.

        Args:
            source, targets: Views.
            contrast: See `configuration.layout.lay_out`.
            shift: Give row i the source of row i - `shift`: with 1 the control whose sources belong to other rows.
        """
        tensors, masks = {}, {}
        for view in targets:
            tensors[VIEWS[view]], mask = self.view(view)
            if mask is not None:
                masks[VIEWS[view]] = mask
        values, mask = (None if x is None else x.roll(shift, 0) for x in self.view(source))
        # the source's clock starts with the source
        begins = {VIEWS[view]: self._begins(view, config) - self._begins(source, config) for view in targets}
        return lay_out(
            config,
            {VIEWS[source]: values},
            tensors,
            {} if mask is None else {VIEWS[source]: mask},
            masks,
            contrast=contrast,
            target_starts={name: start for name, start in begins.items() if start},
        )

    def _begins(self, view: str, config) -> float:
        """Seconds into the clip."""
        return self.values[VIEWS[view]].shape[2] / 2 / config.video_fps if view == FUTURE else 0.0


def rows_present(batch: Mapping, config) -> dict[str, torch.Tensor]:
    """For each modality of a loader's batch, (B,) bool on the CPU, the rows that have it; see `read_batch`."""
    names = [name for name in MODALITIES if batch.get(name) is not None]
    if not names:
        raise ValueError(f"A batch holds at least one of {', '.join(MODALITIES)}; got the keys {list(batch)}.")
    sizes = {name: len(batch[name]) for name in names}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"The modalities of a batch have different numbers of rows: {sizes}.")
    present = {}
    for name in names:
        rows = torch.as_tensor(batch.get(f"has_{name}", torch.ones(sizes[name]))).bool().cpu()
        if name == TEXT:
            rows = rows & (batch[name] != config.pad_token_id).any(1).cpu()
        present[name] = rows
    return present


def read_batch(batch: Mapping, config, device: torch.device | str) -> MultimodalBatch:
    """
    Make tensors for the model, on its device, out of what a loader gives.

    Args:
        batch: What `to_model_inputs` takes: raw clips of a `VideoLoader`, or a dict with any of the four modalities as
            the model reads them. For each there may be `has_<modality>` (B,) bool, the rows that have it, and
            `<modality>_mask`. A row of text without a token lacks text.

    Raises:
        ValueError: when none of the four modalities is there, or they have different numbers of rows.
    """
    present = rows_present(batch, config)
    names = list(present)
    tensors = {key: batch[key] for name in names for key in (name, f"{name}_mask") if batch.get(key) is not None}
    moved = {key: values.to(device, non_blocking=True) for key, values in tensors.items()}
    inputs = to_model_inputs(moved, config)
    masks = {name: inputs[f"{name}_mask"].bool() for name in names if f"{name}_mask" in inputs}
    return MultimodalBatch({name: inputs[name] for name in names}, masks, present)


def blank_batch(config, views: Collection[str], device: torch.device | str) -> MultimodalBatch:
    """One row of nothing, for a rank that has no usable row but has to take part in the step."""
    values = {}
    for name in {VIEWS[view] for view in views}:
        if name == TEXT:
            values[name] = torch.full((1, 1), config.bos_token_id, device=device)
        else:
            channels = config.num_mel_bins if name == AUDIO else config.num_channels
            values[name] = torch.zeros(1, channels, *target_size(config, name), device=device)
    return MultimodalBatch(values, {}, {name: torch.zeros(1, dtype=torch.bool) for name in values})


def count_frames(video: torch.Tensor) -> int:
    """Frames of a batch of videos, raw (B, N, C, H, W) uint8 or as the model reads them."""
    return video.shape[1 if video.dtype == torch.uint8 else 2]


def halves(num_frames: int, config) -> frozenset[str]:
    """Past and future, if each half of so many frames consists of whole tubes; else nothing."""
    half = num_frames // 2
    return frozenset({PAST, FUTURE} if half > 0 and half % config.video_tubelet_size == 0 else ())
