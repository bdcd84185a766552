"""What layers start from that `PreTrainedModel._init_weights` does not know."""

import torch
from torch import nn
from transformers import initialization as init

from ..fusion import AttentionalPooling
from ..fusion.joint import BottleneckFusion
from ..layers import RandomFeatures, RelativeOffsets, ScaleNorm
from ..layers.relative_bias import RelativePositionTable


@torch.no_grad()
def start_layer(module: nn.Module):
    """Give a layer's own parameters and buffers the values that they start from."""
    if isinstance(module, ScaleNorm):
        init.constant_(module.weight, module.hidden_size**0.5)
    elif isinstance(module, RandomFeatures):
        init.copy_(module.projection, module.draw().to(module.projection))
    elif isinstance(module, RelativeOffsets):
        init.normal_(module.table, std=module.init_std)
    elif isinstance(module, RelativePositionTable):
        init.normal_(module.relative_position_bias_table, std=module.init_std)
    elif isinstance(module, AttentionalPooling):
        init.normal_(module.queries, std=1.0)
    elif isinstance(module, BottleneckFusion):
        init.normal_(module.bottleneck, std=module.config.initializer_range)
