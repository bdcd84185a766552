"""How many heads there may be, and how their states lie in memory."""

import torch


class HeadsDoNotDivideError(ValueError, AssertionError):
    """A width that heads do not divide.

    The specification of the aligner speaks of an AssertionError, the rest of the library of ValueErrors: it is both.
    """


def check_heads(dim: int, num_heads: int, num_key_value_heads: int | None = None):
    """Raise unless heads divide the width, and key and value heads divide the query heads.

    Raises:
        HeadsDoNotDivideError: naming the numbers.
    """
    if num_heads < 1 or dim < 1 or dim % num_heads != 0:
        raise HeadsDoNotDivideError(f"dim {dim} is not divisible by num_heads {num_heads}.")
    if num_key_value_heads is not None and (num_key_value_heads < 1 or num_heads % num_key_value_heads != 0):
        raise HeadsDoNotDivideError(
            f"{num_heads} query heads cannot share {num_key_value_heads} key and value heads: not divisible."
        )


def like_rows(states: torch.Tensor) -> torch.Tensor:
    """Empty (B, H, N, d) that lies as (B, N, H, d), so that joining the heads copies nothing."""
    batch, heads, length, width = states.shape
    return states.new_empty(batch, length, heads, width).transpose(1, 2)
