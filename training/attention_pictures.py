"""Pictures of attention weights and of relative position biases.

Each function draws a panel for each head, on one scale of colours. With a path the picture is written there; without
one it is shown by matplotlib's window.
"""

import math
import os
from collections.abc import Sequence

import torch
from PIL import Image

from ..modeling_omni.layers.relative_position import CLASS_ENTRIES


def visualize_attention_weights(
    attn_weights: torch.Tensor,
    save_path: str | os.PathLike | None = None,
    title: str = "Attention Weights",
    cmap: str = "viridis",
) -> None:
    """Draw attention weights, queries in rows and keys in columns.

    Args:
        attn_weights: (Q, K), (heads, Q, K), or (B, heads, Q, K), of which the first sample is drawn; an array, too.
        save_path: file to write, e.g. a .png.
        title: of the picture.
        cmap: matplotlib's name of the colours.

    Raises:
        ImportError: without matplotlib, which `omnilatent[viz]` brings.
        ValueError: for another number of axes, or NaN.
    """
    panels = _as_panels("attn_weights", attn_weights)
    _draw(panels, save_path, title, cmap, low=0.0, labels=("query", "key"))


def visualize_relative_position_bias(
    bias: torch.Tensor,
    save_path: str | os.PathLike | None = None,
    title: str = "Relative Position Bias",
    cmap: str = "coolwarm",
) -> None:
    """Draw bias matrices, queries in rows and keys in columns; 0 is the middle of the colours.

    Args:
        bias: (Q, K), (heads, Q, K) as [`RelativePositionBias`] gives it, or (B, heads, Q, K), of which the first sample
            is drawn.
        save_path, title, cmap: see [`visualize_attention_weights`], as are the errors.

    Example:

    ```python
    >>> from omnilatent import RelativePositionBias
    >>> from omnilatent.training import visualize_relative_position_bias

    >>> rpb = RelativePositionBias(num_heads=4, window_size=(5, 5))
    >>> visualize_relative_position_bias(rpb(), save_path="runs/bias.png")
    ```
    """
    panels = _as_panels("bias", bias)
    limit = panels.abs().max().item() or 1.0
    _draw(panels, save_path, title, cmap, -limit, limit, labels=("query", "key"))


def visualize_bias_table(
    bias_table: torch.Tensor,
    save_path: str | os.PathLike | None = None,
    title: str = "Bias Table",
    window_size: Sequence[int] | None = None,
) -> None:
    """Draw a bias table.

    Args:
        bias_table: (entries, heads).
        save_path, title: see [`visualize_attention_weights`], as are the errors.
        window_size: of the window that the table is for, whose offsets, a query's place minus a key's, are then told by
            the axes, without the entries of a class token. (tokens,): a row for each head, from 1 - tokens to
            tokens - 1. (height, width): a map for each head. (frames, height, width): a row of maps for each head, one
            for each offset of frames. `None`: a row for each head, entry by entry.

    Raises:
        ValueError: for a table that does not fit the window.
    """
    bias_table = torch.as_tensor(bias_table)
    if bias_table.ndim != 2 or bias_table.numel() == 0:
        raise ValueError(f"`bias_table` must be (entries, heads), got the shape {tuple(bias_table.shape)}.")
    panels, words = bias_table.t(), {"labels": ("head", "entry")}
    if window_size is not None:
        panels, words = _offset_panels(bias_table, tuple(window_size))
    panels = _as_panels("bias_table", panels)
    limit = panels.abs().max().item() or 1.0
    _draw(panels, save_path, title, "coolwarm", -limit, limit, **words)


def visualize_shares(
    shares: torch.Tensor,
    image: Image.Image,
    save_path: str | os.PathLike | None = None,
    title: str = "Attention Rollout",
    cmap: str = "inferno",
) -> None:
    """Draw a picture, and beside it what each of its patches adds to the result.

    Args:
        shares: (rows, columns) of the patches, which cover the picture.
        image: the picture, of any size.
        save_path, title, cmap: see [`visualize_attention_weights`], as are the errors.
    """
    shares = _as_panels("shares", shares)[0]
    pyplot = _pyplot()
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 4), layout="constrained")
    extent = (0, image.width, image.height, 0)
    left.imshow(image, extent=extent)
    right.imshow(image.convert("L"), extent=extent, cmap="gray")
    heat = right.imshow(
        shares.numpy(), extent=extent, cmap=cmap, vmin=0.0, alpha=0.7, aspect="auto", interpolation="nearest"
    )
    for axis in (left, right):
        axis.set(aspect=1)
        axis.set_axis_off()
    figure.colorbar(heat, ax=right, label="share")
    _finish(pyplot, figure, title, save_path)


def _as_panels(name, values):
    """(panels, rows, columns) on the CPU."""
    values = torch.as_tensor(values).detach().float().cpu()
    if values.ndim not in (2, 3, 4) or values.numel() == 0:
        raise ValueError(
            f"`{name}` must be a matrix, (heads, rows, columns) or (batch, heads, rows, columns), got the shape "
            f"{tuple(values.shape)}."
        )
    if values.isnan().any():
        raise ValueError(f"`{name}` holds NaN.")
    return values.unsqueeze(0) if values.ndim == 2 else values[0] if values.ndim == 4 else values


def _offset_panels(bias_table, window_size):
    """The panels of a table by its offsets, and what `_draw` is told of them."""
    offsets, heads = [2 * size - 1 for size in window_size], bias_table.shape[1]
    entries = math.prod(offsets)
    if len(offsets) not in (1, 2, 3) or len(bias_table) not in (entries, entries + CLASS_ENTRIES):
        raise ValueError(
            f"Expected a window of 1 to 3 axes; one of {window_size} has {entries} entries, with a class token "
            f"{CLASS_ENTRIES} more; got {len(bias_table)}."
        )
    panels = bias_table[:entries].t().unflatten(1, offsets)  # (heads, offsets ...)
    right = offsets[-1] / 2  # extents are of the cells' edges: offset 0 is in the middle
    if len(offsets) == 1:
        return panels, {"labels": ("head", _minus("place")), "extent": (-right, right, heads - 0.5, -0.5)}
    low = offsets[-2] / 2
    words = {"labels": (_minus("row"), _minus("column")), "extent": (-right, right, low, -low)}
    if len(offsets) == 2:
        return panels, words
    frames = range(1 - window_size[0], window_size[0])
    titles = [f"head {head}, {_minus('frame')} = {frame}" for head in range(heads) for frame in frames]
    return panels.flatten(0, 1), {**words, "titles": titles, "max_columns": len(frames)}


def _minus(axis):
    return f"query's {axis} - key's {axis}"


def _draw(
    panels, save_path, title, cmap, low=None, high=None, labels=("", ""), extent=None, titles=None, max_columns=4
):
    pyplot = _pyplot()
    columns = min(len(panels), max_columns)
    titles = [f"head {index}" for index in range(len(panels))] if titles is None else titles
    rows = math.ceil(len(panels) / columns)
    high = panels.max().item() if high is None else high
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(1 + 3 * columns, 0.6 + 2.8 * rows), squeeze=False, layout="constrained"
    )
    for index, axis in enumerate(axes.flat):
        if index >= len(panels):
            axis.set_axis_off()
            continue
        image = axis.imshow(
            panels[index].numpy(),
            cmap=cmap,
            vmin=low,
            vmax=high,
            extent=extent,
            aspect="auto",
            interpolation="nearest",
        )
        axis.set(ylabel=labels[0], xlabel=labels[1])
        axis.locator_params(integer=True)  # ticks are at whole tokens
        if len(panels) > 1:
            axis.set_title(titles[index], fontsize=8)
    figure.colorbar(image, ax=axes)
    _finish(pyplot, figure, title, save_path)


def _pyplot():
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("Pictures need matplotlib: pip install 'omnilatent[viz]'.") from error
    return pyplot


def _finish(pyplot, figure, title, save_path):
    """Write or show a figure, and close it."""
    try:
        figure.suptitle(title)
        if save_path is None:
            pyplot.show()
        else:
            os.makedirs(os.path.dirname(os.path.abspath(save_path)), exist_ok=True)
            figure.savefig(save_path)
    finally:
        pyplot.close(figure)
