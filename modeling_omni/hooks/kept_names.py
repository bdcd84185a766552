"""A wrapper around a layer that does not show in the names of what is in the layer."""

from torch import nn

INNER = "base_layer"


class KeptNames(nn.Module):
    """For a module that wraps another as `base_layer`: what that one holds keeps the names it has without the wrapper.

    A LoRA within can then be saved and is found again by a model without hooks, and a hooked model takes the base
    model's own weights. Of modules, parameters and tensors of the state dict alike, `layers.0.base_layer.mlp` becomes
    `layers.0.mlp`, which `get_submodule` finds as the wrapper passes on what it does not have. The layer itself stays
    `layers.0.base_layer`.
    """

    def __init__(self):
        super().__init__()
        self.register_state_dict_post_hook(_shorten)
        self.register_load_state_dict_pre_hook(_lengthen)

    def named_modules(self, memo=None, prefix: str = "", remove_duplicate: bool = True):
        inner = f"{prefix}.{INNER}." if prefix else f"{INNER}."
        for name, module in super().named_modules(memo, prefix, remove_duplicate):
            yield (name.replace(inner, inner.removesuffix(f"{INNER}."), 1) if name.startswith(inner) else name), module


def _shorten(wrapper, state_dict, prefix, local_metadata):
    _rename(state_dict, f"{prefix}{INNER}.", prefix, wrapper)


def _lengthen(wrapper, state_dict, prefix, *args):
    _rename(state_dict, prefix, f"{prefix}{INNER}.", wrapper)


def _rename(state_dict: dict, old: str, new: str, wrapper: nn.Module):
    """The layer's children by name; its own parameters stay where it is."""
    for key in list(state_dict):
        if key.startswith(old) and key.removeprefix(old).partition(".")[0] in wrapper.base_layer._modules:
            state_dict[new + key.removeprefix(old)] = state_dict.pop(key)
