"""Pictures of attention weights and of relative position biases.

Each function draws a panel for each head, on one scale of colours. With a path the picture is written there; without
one it is shown by matplotlib's window.
"""

import math
import os

import torch
from PIL import Image


def visualize_attention_weights(
    attn_weights: torch.Tensor,
    save_path: str | os.PathLike | None = None,
    title: str = "Attention Weights",
    cmap: str = "viridis",
) -> None:
    """Draw attention weights, queries in rows and keys in columns.

    Args:
        attn_weights: (Q, K), (heads, Q, K), or (B, heads, Q, K), of which the first sample is drawn.
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
    window_size: tuple[int, int] | None = None,
) -> None:
    """Draw a bias table.

    Args:
        bias_table: (entries, heads).
        save_path, title: see [`visualize_attention_weights`], as are the errors.
        window_size: (height, width) of the window that the table is for: each head is then drawn as a map of offsets,
            a query's place minus a key's, from 1 - height to height - 1 and from 1 - width to width - 1, without the
            entries of a class token. `None`: a row for each head.

    Raises:
        ValueError: for a table that does not fit the window.
    """
    if bias_table.ndim != 2 or bias_table.numel() == 0:
        raise ValueError(f"`bias_table` must be (entries, heads), got the shape {tuple(bias_table.shape)}.")
    labels, extent = ("head", "entry"), None
    panels = bias_table.t().unsqueeze(0)
    if window_size is not None:
        height, width = (2 * size - 1 for size in window_size)
        if len(bias_table) not in (height * width, height * width + 3):
            raise ValueError(
                f"A window of {tuple(window_size)} has {height * width} entries, with a class token 3 more; got "
                f"{len(bias_table)}."
            )
        panels = bias_table[: height * width].t().unflatten(1, (height, width))
        labels = ("offset of rows", "offset of columns")
        extent = (-width / 2, width / 2, height / 2, -height / 2)  # of the cells' edges: offset 0 is in the middle
    panels = _as_panels("bias_table", panels)
    limit = panels.abs().max().item() or 1.0
    _draw(panels, save_path, title, "coolwarm", -limit, limit, labels, extent)


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
    values = values.detach().float().cpu()
    if values.ndim not in (2, 3, 4) or values.numel() == 0:
        raise ValueError(
            f"`{name}` must be a matrix, (heads, rows, columns) or (batch, heads, rows, columns), got the shape "
            f"{tuple(values.shape)}."
        )
    if values.isnan().any():
        raise ValueError(f"`{name}` holds NaN.")
    return values.unsqueeze(0) if values.ndim == 2 else values[0] if values.ndim == 4 else values


def _draw(panels, save_path, title, cmap, low=None, high=None, labels=("", ""), extent=None):
    pyplot = _pyplot()
    columns = min(len(panels), 4)
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
            axis.set_title(f"head {index}", fontsize=8)
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
