"""A picture of what hooks read and who reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .hook_recording import HookRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_hooks(records: Sequence[HookRecord], row: int = 0) -> Figure:
    """A row of panels for each record: on the left what hooks read, on the right who reads them.

    Weights are means over heads, each panel with a scale of its own. Needs matplotlib (`omnilatent[viz]`).

    Args:
        records: from `record_hooks`.
        row: which row of the batch to show.

    Returns:
        The figure; `figure.savefig("hooks.png")` keeps it.

    Raises:
        ValueError: without records, or for a row that the batch does not have.
    """
    from matplotlib.figure import Figure

    if not records:
        raise ValueError("There are no records to draw.")
    if not 0 <= row < len(records[0].reads):
        raise ValueError(f"`row` is {row}, the batch has {len(records[0].reads)}.")
    figure = Figure(figsize=(11, 1.2 + 1.6 * len(records)), dpi=110, layout="constrained")
    for panels, record in zip(figure.subplots(len(records), 2, squeeze=False), records):
        gates = ", ".join(f"{name} {gate:.2g}" for name, gate in record.gates.items())
        count = sum(record.tokens.values())
        reads, readers = (weights[row].float().mean(0).cpu().numpy() for weights in (record.reads, record.readers))
        titles = ("read by hooks", f"readers of hooks; gates: {gates}")
        labels = (f"hooks (left of the line), content ({reads.shape[1] - count})", f"content ({len(readers)})")
        for axis, weights, title, label in zip(panels, (reads, readers.T), titles, labels):
            image = axis.imshow(weights, aspect="auto", cmap="magma", vmin=0.0, interpolation="nearest")
            figure.colorbar(image, ax=axis).ax.tick_params(labelsize=7)
            axis.set_title(f"{record.layer}: {title}", fontsize=8)
            axis.set_xlabel(label, fontsize=7)
            axis.set_yticks(*_ticks(record), fontsize=7)
            axis.tick_params(axis="x", labelsize=7)
            for name in list(record.tokens)[1:]:
                axis.axhline(record.rows_of(name).start - 0.5, color="white", linewidth=0.8)
        panels[0].axvline(count - 0.5, color="white", linewidth=0.8)
    return figure


def _ticks(record: HookRecord) -> tuple[list[float], list[str]]:
    """Each adapter's name beside the middle of its tokens."""
    rows = {name: record.rows_of(name) for name in record.tokens}
    return [(place.start + place.stop - 1) / 2 for place in rows.values()], list(rows)
