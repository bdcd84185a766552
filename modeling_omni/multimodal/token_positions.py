"""Where an encoder's positions enter: added to tokens, turning queries and keys, or joining the scores.

Shapes: B batch, N tokens, D hidden size.
"""

from typing import Any

import torch
from torch import nn

from ...configuration.configuration_multimodal import EncoderConfig
from ..layers import LearnedPositions, MultiAxisRotary, RelativeOffsets, SinusoidalPositions
from ..layers.relative_bias import RelativePositionTable


class TokenPositions(nn.Module):
    """The positions that `config.position` names. Relative ones are shared by all layers, as in T5; sparse attention
    knows offsets along a row only, as its windows are."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        heads, std = config.num_attention_heads, config.initializer_range
        self.added = self.rotary = self.bias = None
        if config.position == "learned":
            self.added = LearnedPositions(config.num_tokens, config.hidden_size)
        elif config.position == "sinusoidal":
            self.added = SinusoidalPositions(config.hidden_size)
        elif config.position == "rotary":
            self.rotary = MultiAxisRotary(config.head_dim)
        elif config.position == "relative" and config.image_size is not None and config.attention.kind != "sparse":
            self.bias = RelativePositionTable(heads, config.grid, class_token=config.use_class_token, init_std=std)
        elif config.position == "relative":
            self.bias = RelativeOffsets(heads, init_std=std)

    @property
    def counts_padding(self) -> bool:
        """Whether padding before or between real tokens would shift them: windows and offsets are along the row."""
        return self.config.attention.kind == "sparse" or isinstance(self.bias, RelativeOffsets)

    def add(self, hidden_states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Tokens (B, N, D) with their places, long (axes, B, N), added, where that is how they enter."""
        return hidden_states if self.added is None else self.added(hidden_states, self._in_a_row(places))

    def for_attention(self, hidden_states: torch.Tensor, places: torch.Tensor) -> dict[str, Any]:
        """What attention is told of the places; `hidden_states` may have a class token before the others."""
        if self.rotary is not None:
            places = nn.functional.pad(places, (hidden_states.shape[1] - places.shape[-1], 0))
            return {"rotary": self.rotary(places, hidden_states.dtype)}
        if isinstance(self.bias, RelativePositionTable):
            return {"position_bias": self.bias.bias()}
        return {} if self.bias is None else {"position_bias": self.bias(hidden_states.shape[1])}

    def _in_a_row(self, places):
        """The number of each token in the row of all: (axes, B, N) -> (B, N)."""
        row = places[0]
        for axis in range(1, len(places)):
            row = row * self.config.grid[axis] + places[axis]
        return row
