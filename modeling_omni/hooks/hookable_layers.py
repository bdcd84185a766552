"""What a transformer layer tells about itself, and whether hooks can be right in it."""

import inspect

from torch import nn
from transformers import PreTrainedConfig

SIZED_BIASES = {"position_bias", "relative_position_bias", "rel_pos", "relative_pos", "alibi"}


def forward_parameters(layer: nn.Module) -> list[str]:
    """Names of a layer's forward parameters.

    Raises:
        ValueError: when hooks cannot be right in it.
    """
    signature = inspect.signature(type(layer).forward).parameters
    names = [name for name in signature if name != "self"]
    biases = SIZED_BIASES.intersection(names)
    if biases:
        raise ValueError(
            f"{type(layer).__name__} takes `{min(biases)}`, a bias with one entry per pair of positions; hook tokens "
            "have no position, so that this kind of model cannot be hooked."
        )
    if any(isinstance(module, (nn.Conv1d, nn.Conv2d)) for module in layer.modules()):
        raise ValueError(
            f"{type(layer).__name__} mixes neighbours by convolution; hook tokens are nobody's neighbours, so that this "
            "kind of model cannot be hooked."
        )
    if not takes_mask(layer):
        raise ValueError(
            f"{type(layer).__name__} takes no `attention_mask`, so that hooks could not be told who sees whom: target "
            "whole transformer layers."
        )
    check_kernel(attention_config(layer))
    return [name for name in names if signature[name].kind is not inspect.Parameter.VAR_KEYWORD]


def attention_config(layer: nn.Module) -> PreTrainedConfig | None:
    """The config from which the layer's attention takes the name of its kernel, at each call."""
    configs = (getattr(module, "config", None) for module in layer.modules())
    return next((config for config in configs if isinstance(config, PreTrainedConfig)), None)


def check_kernel(config: PreTrainedConfig | None):
    """Refuse kernels that take no mask of scores, without which gates and who sees whom would be lost.

    Raises:
        ValueError: when the config names such a kernel.
    """
    name = getattr(config, "_attn_implementation", None) or ""
    if name == "flex_attention" or "flash" in name:
        raise ValueError(
            f"Hooks need attention with a full mask, which {name!r} does not take: load the model with "
            "attn_implementation='sdpa' or 'eager', or call `model.set_attn_implementation('sdpa')`."
        )


def takes_mask(layer: nn.Module) -> bool:
    """Whether this is a layer on a sequence, with a mask for its attention."""
    signature = inspect.signature(type(layer).forward).parameters
    if "attention_mask" in signature:
        return True
    open_ended = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in signature.values())
    attention = any(hasattr(module, "is_causal") for module in layer.children())
    return open_ended and attention


def is_causal(layer: nn.Module) -> bool:
    """Whether a missing mask means a causal one: what the layer's first attention says."""
    return next((module.is_causal for module in layer.modules() if hasattr(module, "is_causal")), False)


def cache_index(layer: nn.Module) -> int:
    """The layer's place in a key-value cache."""
    indices = (getattr(module, "layer_idx", None) for module in layer.modules())
    return next((index for index in indices if index is not None), 0)


def layer_width(layer: nn.Module) -> int:
    """Hidden size of a transformer layer, which begins with a norm or with a projection of the hidden states."""
    for module in layer.modules():
        if hasattr(module, "in_features"):
            return module.in_features
        weight = module._parameters.get("weight")
        if weight is not None and weight.ndim == 1:
            return len(weight)
    raise ValueError(f"Cannot tell the hidden size of {type(layer).__name__}: it has neither a norm nor a projection.")
