"""Checks of what tensors hold."""

from collections.abc import Callable

import torch
from transformers.utils import is_torchdynamo_compiling, torch_compilable_check


def check_values(condition: torch.Tensor, message: str, details: Callable[[], str] | None = None):
    """Raise a ValueError unless all of `condition` holds.

    In a compiled graph the device itself checks, which keeps the graph whole: a RuntimeError, without the details.

    Args:
        message: what is wrong.
        details: says it in its place, with figures that have to be read from the device.
    """
    if is_torchdynamo_compiling():
        torch._assert_async(condition.all(), message)
    else:
        torch_compilable_check(condition.all(), details or message)
