"""Latent Neural Hooks as a PEFT tuner: where hooks attach."""

from contextlib import contextmanager

from peft.tuners.tuners_utils import BaseTuner
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from .configuration_latent_hook import LatentHookConfig
from .hook_chain import HookChain
from .hook_initialization import initial_tokens
from .hook_states import HookStates
from .hook_targets import find_targets
from .hookable_layers import forward_parameters, is_causal, layer_width
from .latent_hook_layer import BASE, LATENT_HOOKS, MERGE_REFUSAL, LatentHookLayer, hooked_layers

PREFIX_LM_MODEL_TYPES = {"omnilatent"}  # their layers are causal in name; their sources see each other
CHAIN = "latent_hook_chain"
STATES = "latent_hook_states"


class LatentHookModel(BaseTuner):
    """Attaches hooks to transformer layers of a model; made by `get_peft_model` and its siblings.

    Args:
        model: the base model.
        config: a `LatentHookConfig`, or one by adapter name.
        adapter_name: name of the first adapter.
    """

    prefix = "latent_hook_"
    tuner_layer_cls = LatentHookLayer
    target_module_mapping = {}

    # --- attaching -----------------------------------------------------------------------------------------------

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args, **kwargs) -> None:
        for layer in hooked_layers(model):
            if adapter_name in layer.latent_hook_gate:
                raise ValueError(f"There already are hooks named {adapter_name!r}.")
        try:
            if "." in adapter_name:
                raise ValueError(f"The name {adapter_name!r} has a dot, which names of parameters cannot have.")
            if hasattr(nn.ModuleDict(), adapter_name) or hasattr(nn.ParameterDict(), adapter_name):
                raise ValueError(f"The name {adapter_name!r} is one that modules have for themselves: choose another.")
            super().inject_adapter(model, adapter_name, *args, **kwargs)
        except Exception:
            withdraw(model, adapter_name)
            raise

    def _prepare_adapter_config(self, peft_config: LatentHookConfig, model_config: dict) -> LatentHookConfig:
        return peft_config  # targets are found in the model itself

    def _prepare_model(self, peft_config: LatentHookConfig, model: nn.Module):
        """Find the targets, and refuse before anything is changed."""
        targets = find_targets(model, peft_config)
        widths = set()
        for layer in targets.values():
            forward_parameters(layer)
            widths.add(layer_width(layer))
            self._reads(peft_config, layer, model)
        if not peft_config.learns_hidden_size and widths != {peft_config.hidden_size}:
            raise ValueError(
                f"These hooks are {peft_config.hidden_size} wide, the model's layers {', '.join(map(str, sorted(widths)))}."
            )
        if len(widths) == 1:
            (peft_config.hidden_size,) = widths
        self._tokens = initial_tokens(model, peft_config)
        self._targets = set(targets)

    def _check_target_module_exists(self, peft_config: LatentHookConfig, key: str) -> bool:
        return key in self._targets

    def _create_and_replace(
        self, peft_config, adapter_name, target, target_name, parent, current_key, parameter_name=None
    ):
        owner = self.model.get_submodule(owner_name(current_key))
        chain = owner.__dict__.get(CHAIN)
        if chain is None:
            chain = HookChain(owner)
            setattr(owner, CHAIN, chain)
        if STATES not in self.model.__dict__:
            setattr(self.model, STATES, HookStates(self.model))
        hooks = getattr(target, LATENT_HOOKS, None) or LatentHookLayer(target, chain)
        begun = any(adapter_name in layer.latent_hook_tokens for layer in hooked_layers(owner) if layer.chain is chain)
        hooks.update_layer(adapter_name, peft_config, self._reads(peft_config, target, self.model))
        if not begun:
            hooks.begin(adapter_name, peft_config.num_tokens, self._tokens)
        hooks._move_adapter_to_device_of_base_layer(adapter_name)

    def _reads(self, peft_config: LatentHookConfig, layer: nn.Module, model: nn.Module) -> str:
        config = getattr(model, "config", None)
        causal = is_causal(layer) and getattr(config, "model_type", None) not in PREFIX_LM_MODEL_TYPES
        reads = peft_config.reads or ("none" if causal or slides(config) else "prefix")
        if reads != "none" and slides(config):
            raise ValueError(
                f"Hooks with reads={reads!r} would forget what leaves this model's sliding window: use reads='none'."
            )
        return reads

    # --- detaching -----------------------------------------------------------------------------------------------

    def _check_merge_allowed(self):
        raise NotImplementedError(MERGE_REFUSAL)

    def unmerge_adapter(self):
        raise NotImplementedError(MERGE_REFUSAL)

    def unload(self) -> nn.Module:
        """The base model without adapters: as with every tuner of peft, LoRAs on it come off, too."""
        for hooks in hooked_layers(self.model):
            hooks.release()
        remove_chains(self.model)
        return super().unload()

    # --- mixed batches -------------------------------------------------------------------------------------------

    @contextmanager
    def _enable_peft_forward_hooks(self, *args, adapter_names: list[str] | None = None, num_beams: int = 1, **kwargs):
        """During the context row i of a batch has the adapter `adapter_names[i]`."""
        if adapter_names is None:
            yield
            return
        if self.training:
            raise ValueError("Cannot pass `adapter_names` when the model is in training mode.")
        unknown = set(adapter_names) - {BASE} - set(self.peft_config)
        if unknown:
            raise ValueError(f"Trying to infer with non-existing adapter(s): {', '.join(sorted(unknown))}")
        chains = {id(layer.chain): layer.chain for layer in hooked_layers(self.model)}.values()
        handles = [
            module.register_forward_pre_hook(_AdapterNames(adapter_names), with_kwargs=True)
            for module in self.model.modules()
            if isinstance(module, AuxiliaryTrainingWrapper)
        ]
        try:
            for chain in chains:
                chain.adapter_names, chain.num_beams = list(adapter_names), num_beams or 1
            yield
        finally:
            for chain in chains:
                chain.adapter_names, chain.num_beams = None, 1
            for handle in handles:
                handle.remove()


class _AdapterNames:
    """Tells a module of `modules_to_save` the adapter of each row."""

    def __init__(self, names: list[str]):
        self.names = list(names)

    def __call__(self, module, args, kwargs):
        beams = len(args[0]) // len(self.names)
        return args, {**kwargs, "adapter_names": [name for name in self.names for _ in range(beams)]}


def owner_name(layer_name: str) -> str:
    """The module that runs a stack of layers: 'model.layers.3' -> 'model'."""
    parent, _, last = layer_name.rpartition(".")
    return parent.rpartition(".")[0] if last.isdigit() else parent


def slides(config) -> bool:
    """Whether some layers of a model forget what is far away."""
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return any(kind != "full_attention" for kind in kinds)
    return getattr(config, "sliding_window", None) is not None


def remove_chains(model: nn.Module):
    """Give models and stacks without hooked layers their own forward back."""
    for module in model.modules():
        if STATES in module.__dict__ and not hooked_layers(module):
            getattr(module, STATES).remove()
            delattr(module, STATES)
        chain = module.__dict__.get(CHAIN)
        if chain is not None and not any(layer.chain is chain for layer in hooked_layers(module)):
            chain.remove()
            delattr(module, CHAIN)


def release_bare_layers(model: nn.Module):
    """Give layers that no adapter hooks any more their own forward back."""
    for hooks in hooked_layers(model):
        if not hooks.latent_hook_gate:
            hooks.release()
    remove_chains(model)


def withdraw(model: nn.Module, adapter_name: str):
    """Forget a refused adapter, whose name peft and transformers write down before they ask."""
    configs = getattr(model, "peft_config", {})
    configs.pop(adapter_name, None)
    if not configs and getattr(model, "_hf_peft_config_loaded", False):
        model._hf_peft_config_loaded = False
