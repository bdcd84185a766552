"""Finding the layers that a config names."""

import re

from torch import nn

from .configuration_latent_hook import LatentHookConfig
from .hookable_layers import takes_mask
from .latent_hook_layer import LATENT_HOOKS


def find_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Every transformer layer by name: the members of lists that attend under a mask, outermost first."""
    layers = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or any(name.startswith(f"{layer}.") for layer in layers):
            continue
        for index, member in enumerate(module):
            if takes_mask(member):
                layers[f"{name}.{index}" if name else str(index)] = member
    return layers


def find_targets(model: nn.Module, config: LatentHookConfig) -> dict[str, nn.Module]:
    """The layers that a config names, by name.

    Raises:
        ValueError: for a name, a regex or an index that no layer has.
    """
    targets = find_layers(model) if config.target_modules is None else named_targets(model, config.target_modules)
    if config.layers_to_transform is not None:
        wanted = config.layers_to_transform
        wanted = {wanted} if isinstance(wanted, int) else set(wanted)
        targets = {name: layer for name, layer in targets.items() if name.rpartition(".")[2].isdigit()}
        indices = {int(name.rpartition(".")[2]) for name in targets}
        if not wanted <= indices:
            raise ValueError(
                f"There is no layer {', '.join(map(str, sorted(wanted - indices)))}: this model's layers are "
                f"{', '.join(map(str, sorted(indices)))}."
            )
        targets = {name: layer for name, layer in targets.items() if int(name.rpartition(".")[2]) in wanted}
    if not targets:
        raise ValueError(f"{type(model).__name__} has no transformer layer to hook: name some in `target_modules`.")
    return targets


def named_targets(model: nn.Module, wanted: str | list[str]) -> dict[str, nn.Module]:
    modules = {name: module for name, module in model.named_modules() if LATENT_HOOKS not in name.split(".")}
    if isinstance(wanted, str):
        found = {name: module for name, module in modules.items() if re.fullmatch(wanted, name)}
        missing = [] if found else [wanted]
    else:
        matches = {
            target: [name for name in modules if name == target or name.endswith(f".{target}")] for target in wanted
        }
        missing = [target for target, names in matches.items() if not names]
        names = {name for names in matches.values() for name in names}
        found = {name: module for name, module in modules.items() if name in names}
    layers = find_layers(model)
    within = sorted(name for name in found if any(name.startswith(f"{layer}.") for layer in layers))
    if within:
        raise ValueError(
            f"Hooks join whole transformer layers, and {within[0]} is a part of one: name layers, which are "
            f"{list(layers)}."
        )
    if missing:
        raise ValueError(
            f"Target modules {sorted(missing)} not found in {type(model).__name__}; its layers are {list(layers)}."
        )
    return found
