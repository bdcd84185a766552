"""Fusions by name."""

from torch import nn
from transformers import PreTrainedConfig

from ...configuration.configuration_multimodal import FusionConfig
from ..layers.init_std import mark_init_std
from .joint import BottleneckFusion, CoAttentionFusion, ConcatenationFusion
from .late import GatedSumFusion, LowRankTensorFusion

FUSIONS = {
    "concatenation": ConcatenationFusion,
    "co_attention": CoAttentionFusion,
    "bottleneck": BottleneckFusion,
    "gated_sum": GatedSumFusion,
    "low_rank_tensor": LowRankTensorFusion,
}


def make_fusion(config: FusionConfig, kernel: str | PreTrainedConfig = "sdpa") -> nn.Module:
    """The fusion that a config names.

    Args:
        kernel: of its attentions, or a config whose `_attn_implementation` names it.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent import FusionConfig
    >>> from omnilatent.modeling_omni.fusion import make_fusion

    >>> fusion = make_fusion(FusionConfig(kind="bottleneck", hidden_size=32, attention={"num_attention_heads": 4}))
    >>> fusion(torch.randn(2, 5, 32), None, torch.randn(2, 7, 32), None).tokens.shape  # 4 + 5 + 7
    torch.Size([2, 16, 32])
    ```
    """
    return mark_init_std(FUSIONS[config.kind](config, kernel), config.initializer_range)
