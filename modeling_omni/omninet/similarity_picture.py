"""Pictures of similarities between two modalities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_similarity(
    similarity: torch.Tensor, rows: str = "vision", columns: str = "audio", samples: int = 4
) -> Figure:
    """Cosines as colours on one scale: between the samples of a batch, or between the tokens of single samples.

    Args:
        similarity: (N, M) from `similarity`, one panel; or (B, S1, S2) from `get_similarity_matrix`, a panel for each of
            the first `samples` samples.
        rows, columns: what they are.
        samples: most panels.

    Returns:
        The figure; `figure.savefig("similarity.png")` keeps it.

    Raises:
        ImportError: without matplotlib, which `omnilatent[viz]` brings.
        ValueError: for other axes, nothing to draw, or NaN.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent import OmniNet, draw_similarity

    >>> model = OmniNet(dim=32, num_heads=4).eval()
    >>> vision, audio, _ = model(torch.randn(6, 5, 32), torch.randn(6, 7, 32))
    >>> figure = draw_similarity(model.similarity(vision, audio))
    >>> len(figure.axes)  # the panel and its colour bar
    2
    ```
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Pictures need matplotlib: pip install 'omnilatent[viz]'.") from error

    if similarity.ndim not in (2, 3) or similarity.numel() == 0 or samples < 1:
        raise ValueError(
            f"Expected similarities (N, M) or (batch, tokens, tokens), none of them 0, and `samples` above 0; got the "
            f"shape {tuple(similarity.shape)} and {samples}."
        )
    panels = similarity.detach().float().cpu()
    if panels.isnan().any():
        raise ValueError("`similarity` holds NaN.")
    panels = panels.unsqueeze(0) if panels.ndim == 2 else panels[:samples]
    limit = max(panels.abs().max().item(), 1e-6)  # 0 is white on either side
    figure = Figure(figsize=(1 + 3 * len(panels), 3), dpi=110, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for index, (axis, panel) in enumerate(zip(axes, panels)):
        image = axis.imshow(
            panel.numpy(), aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest"
        )
        axis.set_xlabel(columns)
        axis.set_ylabel(rows)
        if similarity.ndim == 3:
            axis.set_title(f"sample {index}", fontsize=8)
    figure.colorbar(image, ax=axes, label="cosine")
    return figure


__all__ = ["draw_similarity"]
