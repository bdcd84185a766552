"""A relative position bias for sequences of any length.

Shapes: H heads, Q queries, K keys, P offsets.
"""

import math

import torch
from torch import nn

from .relative_bias import RelativeBias


class RelativeOffsets(nn.Module):
    """A learned number for each head and bucket of offsets, added to the scores (Raffel et al. 2020, T5, section 2.1).

    Half of the buckets hold one offset each; the others grow logarithmically up to `max_distance`, and all offsets
    beyond share the last. A token that looks both ways has a set of buckets for each side.

    Args:
        num_heads: H.
        num_buckets: of each head; even.
        max_distance: tokens, from which on offsets share a bucket.
        is_causal: later keys are not seen and have no buckets.
        init_std: standard deviation of the table at the start.

    Raises:
        ValueError: for sizes that leave a side without buckets.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent.modeling_omni.layers import Attention, RelativeOffsets

    >>> offsets, attention = RelativeOffsets(num_heads=4), Attention(64, 4)
    >>> x = torch.randn(2, 300, 64)
    >>> attention(x, position_bias=offsets(300))[0].shape
    torch.Size([2, 300, 64])
    ```
    """

    def __init__(
        self,
        num_heads: int,
        num_buckets: int = 32,
        max_distance: int = 128,
        is_causal: bool = False,
        init_std: float = 0.02,
    ):
        super().__init__()
        of_side = num_buckets if is_causal else num_buckets // 2
        if of_side < 2 or num_buckets % 2 != 0 or max_distance <= of_side // 2:
            raise ValueError(
                f"`num_buckets` must be even and at least {2 if is_causal else 4}, and `max_distance` above the "
                f"{of_side // 2} offsets that have buckets of their own, got {num_buckets} and {max_distance}."
            )
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self.is_causal = is_causal
        self.init_std = init_std
        self.table = nn.Parameter(torch.randn(num_buckets, num_heads) * init_std)

    def forward(self, query_length: int, key_length: int | None = None, past_length: int = 0) -> RelativeBias:
        """The bias between queries and keys.

        Args:
            query_length: Q.
            key_length: K. `None`: `past_length` + Q.
            past_length: place of the first query among the keys.

        Returns:
            A `RelativeBias`, of which kernels take what they need: its table has an entry for each offset.
        """
        key_length = past_length + query_length if key_length is None else key_length
        # queries' places minus keys' places, from the last key's to the first's
        offsets = torch.arange(1 - key_length, query_length, device=self.table.device) + past_length
        return RelativeBias(self.table[self.bucket(offsets)], (query_length,), (key_length,))

    def bucket(self, offsets: torch.Tensor) -> torch.Tensor:
        """The bucket of each offset, query's place minus key's place."""
        buckets = self.num_buckets if self.is_causal else self.num_buckets // 2
        later = 0 if self.is_causal else (offsets < 0) * buckets
        distance = offsets.clamp(min=0) if self.is_causal else offsets.abs()
        exact = buckets // 2
        growth = torch.log(distance.clamp(min=1).float() / exact) / math.log(self.max_distance / exact)
        far = exact + (growth * (buckets - exact)).long()
        return later + torch.where(distance < exact, distance, far.clamp(max=buckets - 1))

    def extra_repr(self) -> str:
        return f"num_buckets={self.num_buckets}, max_distance={self.max_distance}, is_causal={self.is_causal}"


__all__ = ["RelativeOffsets"]
