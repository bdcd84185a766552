"""Fusions whose layers mix the tokens of two streams: joint attention, co-attention and bottleneck tokens.

Each maps (first, first_mask, second, second_mask) to `FusedTokens`. Masks are bool, True where real, or `None`; padding
changes nothing.

Shapes: B batch, T tokens of the first stream, N tokens of the second, D width, b bottleneck tokens.
"""

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from ...configuration.configuration_multimodal import FusionConfig
from ..layers import make_attention_mask
from .fused_tokens import FusedTokens, StreamTypes, join_masks, make_block, norm_of


class ConcatenationFusion(nn.Module):
    """Self-attention layers over the tokens of both streams side by side (Chen et al. 2020, UNITER; METER's "merged
    attention")."""

    def __init__(self, config: FusionConfig, kernel: str | PreTrainedConfig = "sdpa"):
        super().__init__()
        self.config = config
        self.types = StreamTypes(config.hidden_size)
        self.layers = nn.ModuleList(make_block(config, kernel) for _ in range(config.num_hidden_layers))
        self.norm = norm_of(config)(config.hidden_size)

    def forward(self, first, first_mask, second, second_mask) -> FusedTokens:
        mask = join_masks([first.shape[1], second.shape[1]], [first_mask, second_mask], first)
        tokens = torch.cat(self.types(first, second), dim=1)
        attention_mask = make_attention_mask(self.layers[0].attention, tokens, mask)
        for layer in self.layers:
            tokens = layer(tokens, attention_mask=attention_mask)
        return FusedTokens(self.norm(tokens), mask)


class CoAttentionLayer(nn.Module):
    """Each stream attends to the other, then to itself (Lu et al. 2019, ViLBERT, figure 2).

    The norms come before the branches, theirs after.
    """

    def __init__(self, config: FusionConfig, kernel: str | PreTrainedConfig = "sdpa"):
        super().__init__()
        self.context_norms = nn.ModuleList(norm_of(config)(config.hidden_size) for _ in range(2))
        # no list: adapters that extend the sequences of whole layers look for lists, and would take the context for one
        self.cross_layers = nn.ModuleDict({name: make_block(config, kernel) for name in ("first", "second")})
        self.self_layers = nn.ModuleList(make_block(config, kernel) for _ in range(2))

    def forward(self, first, second, first_masks, second_masks) -> tuple[torch.Tensor, torch.Tensor]:
        """Masks are pairs of what the stream's tokens may attend to in the other stream, and in their own."""
        contexts = self.context_norms[0](second), self.context_norms[1](first)
        streams = []
        for index, (tokens, (cross, own)) in enumerate(((first, first_masks), (second, second_masks))):
            layer = self.cross_layers[("first", "second")[index]]
            tokens = layer(tokens, context=contexts[index], attention_mask=cross)
            streams.append(self.self_layers[index](tokens, attention_mask=own))
        return streams[0], streams[1]


class CoAttentionFusion(nn.Module):
    """Two streams of the same depth that read each other in every layer (Lu et al. 2019, ViLBERT)."""

    def __init__(self, config: FusionConfig, kernel: str | PreTrainedConfig = "sdpa"):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(CoAttentionLayer(config, kernel) for _ in range(config.num_hidden_layers))
        self.norms = nn.ModuleList(norm_of(config)(config.hidden_size) for _ in range(2))

    def forward(self, first, first_mask, second, second_mask) -> FusedTokens:
        first_masks = self._masks(first, first_mask, second, second_mask)
        second_masks = self._masks(second, second_mask, first, first_mask)
        sizes, masks = [first.shape[1], second.shape[1]], [first_mask, second_mask]
        for layer in self.layers:
            first, second = layer(first, second, first_masks, second_masks)
        tokens = torch.cat([self.norms[0](first), self.norms[1](second)], dim=1)
        return FusedTokens(tokens, join_masks(sizes, masks, tokens))

    def _masks(self, tokens, mask, context, context_mask):
        """What tokens may attend to in the other stream, and in their own."""
        attention = self.layers[0].self_layers[0].attention
        return make_attention_mask(attention, tokens, context_mask, context), make_attention_mask(
            attention, tokens, mask
        )


class BottleneckLayer(GradientCheckpointingLayer):
    """Each stream's layer sees its own tokens and the bottleneck; the two new bottlenecks are averaged (Nagrani et al.
    2021, MBT, equations 8 and 9)."""

    def __init__(self, config: FusionConfig, kernel: str | PreTrainedConfig = "sdpa"):
        super().__init__()
        self.layers = nn.ModuleList(make_block(config, kernel) for _ in range(2))

    def forward(self, bottleneck, first, second, first_mask, second_mask):
        count, made = bottleneck.shape[1], []
        for layer, tokens, mask in ((self.layers[0], first, first_mask), (self.layers[1], second, second_mask)):
            made.append(layer(torch.cat([bottleneck, tokens], dim=1), attention_mask=mask))
        return (made[0][:, :count] + made[1][:, :count]) / 2, made[0][:, count:], made[1][:, count:]


class BottleneckFusion(nn.Module):
    """Streams exchange through a few learned tokens (Nagrani et al. 2021, MBT). The bottleneck comes first in the
    result."""

    def __init__(self, config: FusionConfig, kernel: str | PreTrainedConfig = "sdpa"):
        super().__init__()
        self.config = config
        self.bottleneck = nn.Parameter(torch.empty(1, config.num_bottleneck_tokens, config.hidden_size))
        self.layers = nn.ModuleList(BottleneckLayer(config, kernel) for _ in range(config.num_hidden_layers))
        self.norm = norm_of(config)(config.hidden_size)
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.normal_(self.bottleneck, std=self.config.initializer_range)

    def forward(self, first, first_mask, second, second_mask) -> FusedTokens:
        bottleneck = self.bottleneck.to(first.dtype).expand(first.shape[0], -1, -1)
        count = bottleneck.shape[1]
        masks = []
        for tokens, mask in ((first, first_mask), (second, second_mask)):
            joint = torch.cat([bottleneck, tokens], dim=1)
            mask = join_masks([count, tokens.shape[1]], [None, mask], joint)
            masks.append(make_attention_mask(self.layers[0].layers[0].attention, joint, mask))
        sizes = [count, first.shape[1], second.shape[1]]
        for layer in self.layers:
            bottleneck, first, second = layer(bottleneck, first, second, *masks)
        tokens = self.norm(torch.cat([bottleneck, first, second], dim=1))
        return FusedTokens(tokens, join_masks(sizes, [None, first_mask, second_mask], tokens))
