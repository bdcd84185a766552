"""Standard deviations that parts of a model start from, where theirs differ from the model's."""

import torch
from torch import nn
from transformers import initialization as init


def mark_init_std(part: nn.Module, std: float) -> nn.Module:
    """The part, whose linear layers and tables keep the standard deviation that its own config asks for: transformers
    draws by the config of the model around it, layer by layer."""
    for layer in part.modules():
        if isinstance(layer, nn.Linear | nn.Embedding):
            layer.init_std = std
    return part


@torch.no_grad()
def draw_marked(layer: nn.Module, std: float):
    """Draw a marked layer again, if its mark is not the standard deviation that it was drawn with."""
    if isinstance(layer, nn.Linear | nn.Embedding) and getattr(layer, "init_std", std) != std:
        init.normal_(layer.weight, std=layer.init_std)
