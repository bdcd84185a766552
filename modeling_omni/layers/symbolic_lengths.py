"""Sequences whose length an exported program does not know."""

import torch


def is_symbolic(length: int) -> bool:
    """Whether a program is being exported for any `length`.

    How many blocks such a sequence has is an expression that export cannot prove to fit where it must, so kernels that
    work by blocks write their scores out there: the same numbers, without the saving.
    """
    return torch.compiler.is_exporting() and isinstance(length, torch.SymInt)
