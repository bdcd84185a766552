"""What a fusion of two streams gives, and what all fusions are made of.

Shapes: B batch, T tokens of the first stream, N tokens of the second, D width.
"""

import functools
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedConfig

from ...configuration.configuration_multimodal import FusionConfig
from ..layers import TransformerBlock, make_attention, make_feed_forward, make_norm
from ..layers.init_std import mark_init_std
from .pooling import Pooling


@dataclass
class FusedTokens:
    """
    Args:
        tokens: (B, S, D), all tokens of both streams and perhaps some before them.
        attention_mask: bool (B, S), True where real; `None`: all are.
    """

    tokens: torch.Tensor
    attention_mask: torch.Tensor | None


def join_masks(sizes: list[int], masks: list[torch.Tensor | None], like: torch.Tensor) -> torch.Tensor | None:
    """One mask (B, sum of sizes) of streams side by side, `None` if all of it is real."""
    if all(mask is None for mask in masks):
        return None
    batch = like.shape[0]
    whole = [
        torch.ones(batch, n, dtype=torch.bool, device=like.device) if m is None else m for n, m in zip(sizes, masks)
    ]
    return torch.cat(whole, dim=1)


def make_block(config: FusionConfig, kernel: str | PreTrainedConfig) -> TransformerBlock:
    """A transformer layer of the fusion's settings, with the kernel of the model around it."""
    return TransformerBlock(
        config.hidden_size,
        attention=make_attention(config.attention, config.hidden_size, kernel=kernel),
        feed_forward=make_feed_forward(
            config.feed_forward, config.hidden_size, config.intermediate_size, config.hidden_act, config.dropout
        ),
        norm=norm_of(config),
    )


def norm_of(config: FusionConfig):
    """Makes norms of a width, as the settings ask for."""
    return functools.partial(make_norm, config.norm, eps=config.norm_eps)


def make_pooling(config: FusionConfig) -> Pooling:
    """What makes one vector of tokens, as the settings ask for."""
    return mark_init_std(Pooling(config, norm_of(config)(config.hidden_size)), config.initializer_range)


class StreamTypes(nn.Module):
    """A learned vector for each of two streams, added to its tokens, by which a joint layer can tell them apart."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.types = nn.Embedding(2, hidden_size)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return first + self.types.weight[0], second + self.types.weight[1]
