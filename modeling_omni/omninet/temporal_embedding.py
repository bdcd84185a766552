"""When tokens are: OmniVinci's two temporal modules (Ye et al. 2025, arXiv 2510.15870, section 2.1).

Times are seconds. Shapes: B batch, S tokens, D width.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from ..layers.rotary import apply_rotary
from ..layers.value_checks import check_values


class ConstrainedRotaryTimeEmbedding(nn.Module):
    """Absolute time: turn each pair of a token's features by frequency * timestamp.

    x' = x cos(wt) + rotate_half(x) sin(wt), both features of a pair by one angle, so that norms stay what they are.
    Frequencies are constrained on both sides and geometric between: the slowest pair makes half a turn over
    `max_time_horizon`, so that no two times inside it look alike, and the fastest makes half a turn over
    `time_resolution`. (The paper's frequencies start at one turn over the horizon and go down from there, which leaves
    tokens a tenth of a second apart almost equal; ours go up.)

    The frequencies are computed at each call: a buffer would have to be restored by hand after `from_pretrained`.

    Args:
        dim: width, even.
        max_time_horizon: seconds; timestamps lie in [0, `max_time_horizon`].
        time_resolution: seconds.

    Raises:
        ValueError: for an odd width or times that are not 0 < `time_resolution` <= `max_time_horizon`.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent.modeling_omni.omninet.temporal_embedding import ConstrainedRotaryTimeEmbedding

    >>> embedding = ConstrainedRotaryTimeEmbedding(dim=16, max_time_horizon=30.0)
    >>> tokens = torch.randn(2, 5, 16)
    >>> turned = embedding(tokens, timestamps=torch.rand(2, 5) * 30)
    >>> torch.allclose(turned.norm(dim=-1), tokens.norm(dim=-1), rtol=1e-4)
    True
    ```
    """

    def __init__(self, dim: int, max_time_horizon: float, time_resolution: float = 0.05):
        super().__init__()
        if dim < 2 or dim % 2 != 0:
            raise ValueError(f"A rotation turns pairs: `dim` must be even, got {dim}.")
        if not 0 < time_resolution <= max_time_horizon:
            raise ValueError(
                f"Expected 0 < `time_resolution` <= `max_time_horizon`, got {time_resolution} and {max_time_horizon} s."
            )
        self.dim = dim
        self.max_time_horizon = max_time_horizon
        self.time_resolution = time_resolution

    def frequencies(self, device=None) -> torch.Tensor:
        """(D / 2,) radians per second, from the slowest to the fastest."""
        slowest, fastest = math.log(math.pi / self.max_time_horizon), math.log(math.pi / self.time_resolution)
        return torch.linspace(slowest, fastest, self.dim // 2, device=device).exp()

    def forward(self, tokens: torch.Tensor, timestamps: torch.Tensor) -> torch.Tensor:
        """
        Args:
            tokens: (B, S, D).
            timestamps: (B, S) seconds.

        Returns:
            (B, S, D).

        Raises:
            ValueError: for timestamps of another shape, or outside of [0, `max_time_horizon`] (looked at on the CPU).
        """
        check_timestamps(tokens, timestamps)
        if timestamps.device.type == "cpu":
            check_values(
                (timestamps >= 0) & (timestamps <= self.max_time_horizon),
                f"Timestamps must lie in [0, {self.max_time_horizon}] s, the time horizon.",
                lambda: (
                    f"Timestamps must lie in [0, {self.max_time_horizon}] s, the time horizon; they lie in "
                    f"[{timestamps.min().item()}, {timestamps.max().item()}]."
                ),
            )
        # float32 angles whatever the model's type: half a minute at the fastest pair is thousands of radians
        angles = timestamps.float().unsqueeze(-1) * self.frequencies(timestamps.device)
        angles = torch.cat([angles, angles], dim=-1)
        return apply_rotary(tokens, (angles.cos().to(tokens.dtype), angles.sin().to(tokens.dtype)))


@dataclass
class GroupedTokens:
    """Tokens of several streams in one sequence.

    Args:
        tokens: (B, S, D), real ones first.
        mask: bool (B, S), True where real.
        timestamps: (B, S) seconds.
        groups: (B, S) number of each token's temporal group.
        streams: (B, S) which of the streams each token comes from.
    """

    tokens: torch.Tensor
    mask: torch.Tensor
    timestamps: torch.Tensor
    groups: torch.Tensor
    streams: torch.Tensor


def group_by_time(
    tokens: list[torch.Tensor],
    timestamps: list[torch.Tensor],
    duration: float,
    masks: list[torch.Tensor | None] | None = None,
) -> GroupedTokens:
    """Relative time: put what happens together next to each other (Temporal Embedding Grouping).

    Time is cut into groups of `duration`; the sequence is the first stream's tokens of group 0, the second stream's
    tokens of group 0, the first stream's tokens of group 1, ... Within a stream and a group tokens are in order of
    time, those of one moment in the order they came. Padding goes to the end.

    Args:
        tokens: of each stream (B, S_i, D).
        timestamps: of each stream (B, S_i) seconds, not negative.
        duration: of a group, seconds.
        masks: of each stream bool (B, S_i), True where real. `None`: all are.

    Raises:
        ValueError: for shapes that do not fit or a duration that is not positive.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent.modeling_omni.omninet.temporal_embedding import group_by_time

    >>> vision, audio = torch.zeros(1, 2, 4), torch.ones(1, 3, 4)
    >>> times = [torch.tensor([[0.0, 1.0]]), torch.tensor([[0.2, 0.7, 1.2]])]
    >>> group_by_time([vision, audio], times, duration=1.0).streams
    tensor([[0, 1, 1, 0, 1]])
    ```
    """
    if not duration > 0:
        raise ValueError(f"`duration` must be positive, got {duration} s.")
    if not len(tokens) == len(timestamps) == len(masks or tokens):
        raise ValueError(f"There are {len(tokens)} streams, but timestamps for {len(timestamps)} of them.")
    masks = masks or [None] * len(tokens)
    for states, times in zip(tokens, timestamps):
        check_timestamps(states, times)
    mask = torch.cat(
        [
            torch.ones_like(times, dtype=torch.bool) if real is None else real.bool()
            for times, real in zip(timestamps, masks)
        ],
        dim=1,
    )
    streams = torch.cat([torch.full_like(times, i, dtype=torch.long) for i, times in enumerate(timestamps)], dim=1)
    times = torch.cat([times.float() for times in timestamps], dim=1)
    groups = torch.div(times, duration, rounding_mode="floor").long()

    order = times.argsort(dim=1, stable=True)
    for key in (streams, groups, ~mask):  # the last key decides first, as stable sorts keep what came before
        order = order.gather(1, key.gather(1, order).to(torch.long).argsort(dim=1, stable=True))
    joined = torch.cat(tokens, dim=1)
    return GroupedTokens(
        tokens=joined.gather(1, order.unsqueeze(-1).expand(-1, -1, joined.shape[-1])),
        mask=mask.gather(1, order),
        timestamps=times.gather(1, order),
        groups=groups.gather(1, order),
        streams=streams.gather(1, order),
    )


def check_timestamps(tokens: torch.Tensor, timestamps: torch.Tensor):
    """Raise a ValueError unless there is one timestamp for each token."""
    if tokens.ndim != 3 or timestamps.shape != tokens.shape[:2]:
        raise ValueError(
            f"Timestamps of shape {tuple(timestamps.shape)} do not fit tokens of shape {tuple(tokens.shape)}: "
            "expected one for each token, (batch, tokens)."
        )


__all__ = ["ConstrainedRotaryTimeEmbedding", "GroupedTokens", "group_by_time"]
