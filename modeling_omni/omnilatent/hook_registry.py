"""`register_hook` and `remove_hook`: Latent Neural Hooks by name."""

import warnings
import weakref

from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from ..hooks.latent_hook_model import hooked_layers, release_bare_layers
from ..hooks.latent_neural_hook import LatentNeuralHook


class HookRegistryMixin:
    """For models with transformers' `add_adapter`: hooks are adapters, and those registered are all active."""

    def register_hook(self, hook: LatentNeuralHook) -> None:
        """Attach a hook. What could be trained before still can be, and so can the hook's parameters.

        Raises:
            ValueError: for a name that is taken or has a dot, layers that do not exist, another width, or a hook that a
                model has already.
        """
        if hook.is_registered:
            raise ValueError(f"The hook {hook.name!r} is registered already: make one for each model.")
        trainable = {parameter: parameter.requires_grad for parameter in self.parameters()}
        active = self.active_adapters() if self._hf_peft_config_loaded else []
        with warnings.catch_warnings():
            # peft is surprised at a second adapter; here several are the purpose
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")
            self.add_adapter(hook.config, hook.name)
        self.set_adapter([*active, hook.name])
        for parameter, requires_grad in trainable.items():
            parameter.requires_grad_(requires_grad)
        hook.bind([layer for layer in hooked_layers(self) if hook.name in layer.latent_hook_gate])
        _LateParameters(self, hook)

    def save_pretrained(self, save_directory, **kwargs):
        """As in transformers, which saves adapters alone; says what is left out if more than hooks has been trained."""
        if self._hf_peft_config_loaded and any(
            parameter.requires_grad for name, parameter in self.named_parameters() if "latent_hook_" not in name
        ):
            warnings.warn(
                "This saves the hooks alone, and other weights of the model are trained, too: freeze them before "
                "training (`model.requires_grad_(False)` before `register_hook`), or save the model without hooks as "
                "well.",
                stacklevel=2,
            )
        return super().save_pretrained(save_directory, **kwargs)

    def remove_hook(self, name: str) -> None:
        """Detach a hook and forget its parameters; without any hook left, the model is as it was made.

        Raises:
            ValueError: when there is no hook of this name.
        """
        names = sorted({key for layer in hooked_layers(self) for key in layer.latent_hook_gate})
        if name not in names:
            raise ValueError(f"There is no hook named {name!r}; there are: {', '.join(names) or 'none'}.")
        rest = [other for other in self.active_adapters() if other != name]
        trainable = {parameter: parameter.requires_grad for parameter in self.parameters()}
        self.set_adapter(rest)  # deleting an active adapter would make another one active
        self.delete_adapter(name)
        release_bare_layers(self)
        for parameter in self.parameters():
            parameter.requires_grad_(trainable[parameter])


class _LateParameters:
    """Says once, at the first step of an optimizer that trains the model, if it was built before the hook was there."""

    def __init__(self, model: nn.Module, hook: LatentNeuralHook):
        self.model, self.hook = weakref.ref(model), weakref.ref(hook)
        self.asked = False
        # not removed within a step: torch iterates over its hooks then
        weakref.finalize(hook, register_optimizer_step_pre_hook(self).remove)

    def __call__(self, optimizer: Optimizer, args, kwargs):
        model, hook = self.model(), self.hook()
        if self.asked or model is None or hook is None:
            return
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        if held.isdisjoint(map(id, model.parameters())):
            return
        self.asked = True
        if held.isdisjoint(map(id, hook.parameters())):
            warnings.warn(
                f"The parameters of the hook {hook.name!r} are not in this optimizer, which trains its model: they "
                "were registered after it was built. Add them with `optimizer.add_param_group`.",
                stacklevel=2,
            )
