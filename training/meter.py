"""What a run measures between two lines of its log."""

import time
from collections.abc import Callable, Mapping

import torch


class StepMeter:
    """
    Collects losses on the device, so that no step waits for it, and the seconds spent waiting for data.

    Args:
        device: Of the losses.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._reset()

    def _reset(self):
        self._losses: dict[str, torch.Tensor] = {}  # name -> (sum over rows, rows)
        self._clips = self._usable = 0
        self._waited = 0.0
        self._begun = time.perf_counter()

    def add_losses(self, losses: Mapping[str, torch.Tensor], rows: int) -> None:
        """Note mean losses over so many rows; 0 rows keep the names the same on all ranks."""
        for name, loss in losses.items():
            loss = loss.detach().float().reshape(())
            self._losses[name] = self._losses.get(name, 0) + torch.stack([loss, torch.ones_like(loss)]) * rows

    def add_rows(self, clips: int, usable: int) -> None:
        """Note the rows of a batch, and those that its step could use."""
        self._clips += clips
        self._usable += usable

    def add_waiting(self, seconds: float) -> None:
        self._waited += seconds

    def drain(self, reduce: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
        """
        The figures since the last call, and a new beginning.

        Args:
            reduce: Sums a tensor over all ranks, which must all call this at the same step.

        Returns:
            `loss_<name>` each, `clips_per_second` (all ranks), `waiting_for_data` (share of the time, 0 to 1, mean of
            the ranks) and `usable_clips` (share of the clips that had what their step needed).
        """
        seconds = max(time.perf_counter() - self._begun, 1e-9)
        names = sorted(self._losses)
        counts = torch.tensor([self._clips, self._usable, self._waited / seconds, 1.0], device=self._device)
        sums = torch.cat([*(self._losses[name] for name in names), counts])
        *sums, clips, usable, waited, ranks = reduce(sums).tolist()
        logs = {f"loss_{name}": total / rows for name, total, rows in zip(names, sums[::2], sums[1::2]) if rows > 0}
        if clips > 0:
            logs |= {"clips_per_second": clips / seconds, "usable_clips": usable / clips}
        logs["waiting_for_data"] = waited / ranks
        self._reset()
        return logs
