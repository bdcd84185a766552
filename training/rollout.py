"""Which input tokens the output of a transformer comes from.

Shapes: B batch, H heads, N tokens.
"""

import math
from collections.abc import Sequence

import torch


def attention_rollout(attentions: Sequence[torch.Tensor]) -> torch.Tensor:
    """Attention rollout (Abnar & Zuidema 2020, section 3): attention followed through all layers.

    A layer hands on half of what its attention, averaged over the heads, gathers, and half of the token itself, which
    the residual connection carries: `A = (W + I) / 2`. The rollout is the product `A_last ... A_1`.

    Args:
        attentions: of each layer from the first, (B, H, N, N) with rows that sum to 1, as `output_attentions=True` gives
            them. A row of zeros, a query that sees nothing, keeps its own token.

    Returns:
        (B, N, N): in row i, the share of each input token in output token i. Rows sum to 1.

    Raises:
        ValueError: for no weights, as other kernels than "eager" give, or layers of other shapes.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent import RelPosViTConfig, RelPosViTModel, attention_rollout

    >>> model = RelPosViTModel(RelPosViTConfig.tiny())
    >>> model.set_attn_implementation("eager")
    >>> attentions = model(torch.randn(2, 3, 24, 32), output_attentions=True).attentions
    >>> attention_rollout(attentions).shape
    torch.Size([2, 12, 12])
    ```
    """
    if attentions is None or len(attentions) == 0 or any(layer is None for layer in attentions):
        raise ValueError(
            'Rollout needs the attention weights of each layer, and only the attention kernel "eager" gives them: load '
            'the model with `attn_implementation="eager"`, or call `model.set_attn_implementation("eager")`, and then '
            "call it with `output_attentions=True`."
        )
    shapes = [tuple(layer.shape) for layer in attentions]
    if len({(shape[0], *shape[2:]) for shape in shapes}) != 1 or len(shapes[0]) != 4:
        raise ValueError(
            f"Expected (batch, heads, tokens, tokens) of each layer, with as many tokens in all, got {shapes}."
        )
    if shapes[0][2] != shapes[0][3]:
        raise ValueError(f"Rollout needs queries that are keys as well, got {shapes[0][2:]} of them.")
    rollout = None
    for layer in attentions:
        weights = layer.detach().float().mean(dim=1)
        step = weights + torch.eye(weights.shape[-1], device=weights.device)
        step = step / step.sum(dim=-1, keepdim=True)
        rollout = step if rollout is None else step @ rollout
    return rollout


def patch_shares(rollout: torch.Tensor, grid_size: Sequence[int], pooling: str | None = None) -> torch.Tensor:
    """What each patch of a picture or a video adds to its embedding.

    Args:
        rollout: (B, N, N), other tokens standing before the patches.
        grid_size: (rows, columns) of the patches, or (frames, rows, columns).
        pooling: "cls" where the embedding is the first token, "mean" where it is the mean of the patches. `None`: "cls"
            where tokens stand before the patches.

    Returns:
        (B, *grid_size). The shares of the tokens before the patches are left out: a sum below 1 tells what they hold.

    Raises:
        ValueError: for fewer tokens than patches, and "cls" without a token before them.
    """
    others = rollout.shape[-1] - math.prod(grid_size)
    pooling = pooling or ("cls" if others > 0 else "mean")
    if others < 0 or (pooling == "cls" and others == 0):
        patches = " x ".join(map(str, grid_size))
        raise ValueError(f"{rollout.shape[-1]} tokens are not {patches} patches with pooling {pooling!r}.")
    shares = rollout[:, 0] if pooling == "cls" else rollout[:, others:].mean(dim=1)
    return shares[:, others:].unflatten(1, tuple(grid_size))


__all__ = ["attention_rollout", "patch_shares"]
