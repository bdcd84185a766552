"""What modules of their own refuse: tokens of another shape, none at all, NaN."""

import torch
from transformers.utils import is_torchdynamo_compiling


def check_tokens(name: str, tokens: torch.Tensor, width: int):
    """Raise a ValueError unless `tokens` is (batch, tokens, width) with at least one sample and one token."""
    if tokens.ndim != 3 or tokens.shape[-1] != width:
        raise ValueError(f"`{name}` must have the shape (batch, tokens, {width}), got {tuple(tokens.shape)}.")
    for axis, what in enumerate(("samples", "tokens")):
        if tokens.shape[axis] == 0:
            raise ValueError(f"`{name}` has no {what}: its shape is {tuple(tokens.shape)}.")


def check_no_nan(name: str, states: torch.Tensor, mask: torch.Tensor | None = None):
    """Raise a ValueError for NaN in `states` (..., D) where `mask` (...) is True, or anywhere.

    Only on the CPU: on a GPU the look would stop it at every step, and the loss tells anyway.
    """
    if states.device.type != "cpu" or is_torchdynamo_compiling():
        return
    wrong = states.isnan().any(dim=-1)
    if (wrong if mask is None else wrong & mask).any():
        raise ValueError(f"`{name}` holds NaN.")
