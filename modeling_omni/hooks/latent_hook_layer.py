"""Hooks on one transformer layer.

Shapes: B batch, T content tokens, K content keys, N hook tokens, D hidden size.
"""

import functools
from contextlib import nullcontext
from types import MethodType

import torch
from accelerate.hooks import AlignDevicesHook
from peft.tuners.tuners_utils import BaseTunerLayer, onload_layer
from torch import nn
from torch.nn import functional as F

from ..layers.attention import Attention
from .configuration_latent_hook import LatentHookConfig
from .hook_cache import past_hooks, self_attention_cache
from .hook_chain import HookChain
from .hook_masks import JoinedMask, compute_dtype, own_mask, reaches, visible
from .hook_transform import transform
from .hookable_layers import attention_config, cache_index, check_kernel, forward_parameters, is_causal, layer_width

LATENT_HOOKS = "latent_hooks"  # of a hooked layer, the child that holds its hooks
TOKEN_STD = 0.02  # the usual scale of token embeddings
BASE = "__base__"  # peft's name for rows of a mixed batch without an adapter
CACHES = ("past_key_values", "layer_past")  # one thing, named differently by models
ROTARY = ("position_embeddings", "rotary")
MERGE_REFUSAL = "Latent hooks cannot be merged or unmerged: they are tokens and not a change of weights; `unload()` takes them off."


class LatentHookLayer(BaseTunerLayer, nn.Module):
    """The hooks that join the sequence of one transformer layer.

    The layer runs once over `[hooks; content]`. Content sees hook j with its attention score raised by log sigmoid(b),
    which scales j's weight by sigmoid(b) before normalisation; scaling the tokens instead would be undone by the norm
    that follows. Hooks are not rotated: they have no position. What comes out for them is their state, which the next
    hooked layer takes up.

    The first hooked layer of a stack holds the tokens; each has its gates and its transforms.

    It is a child of that layer, named `latent_hooks`, and shadows the layer's `forward`. Nothing wraps the layer: all
    that is in it keeps its name, can be saved and loaded as if there were no hooks, and other adapters find it. Forward
    hooks on the layer, which record `output_hidden_states` for one, see content alone. Checkpointing wraps what is
    shadowed: recomputation starts from the joined sequence and touches no state.

    Args:
        layer: the transformer layer.
        chain: the slot of the stack that the layer belongs to.
    """

    adapter_layer_names = ("latent_hook_tokens", "latent_hook_gate", "latent_hook_down", "latent_hook_up")
    other_param_names = ("hook_reads",)

    def __init__(self, layer: nn.Module, chain: HookChain):
        super().__init__()
        self._layer = (layer,)  # in a tuple it is not registered: it contains this module
        self.chain = chain
        self.latent_hook_tokens = nn.ParameterDict()
        self.latent_hook_gate = nn.ParameterDict()
        self.latent_hook_down = nn.ModuleDict()
        self.latent_hook_up = nn.ModuleDict()
        self.hook_reads: dict[str, str] = {}
        self._parameter_names = forward_parameters(layer)
        self._attention_config = attention_config(layer)
        self._cache_index = cache_index(layer)
        self._is_causal = is_causal(layer)
        self._takes_gated_mask = any(isinstance(module, Attention) for module in layer.modules())
        # accelerate, too, puts a forward of its own on modules
        self._shadowed_forward = layer.__dict__.get("forward")
        layer.forward = self._forward_joined
        setattr(layer, LATENT_HOOKS, self)
        self.train(layer.training)

    # --- its parameters ------------------------------------------------------------------------------------------

    def begin(self, adapter_name: str, num_tokens: int, tokens: torch.Tensor | None):
        """Let an adapter's hooks enter the stack here, with these tokens (N, D) or with random ones."""
        if tokens is None:
            tokens = torch.randn(num_tokens, layer_width(self.get_base_layer())) * TOKEN_STD
        self.latent_hook_tokens[adapter_name] = nn.Parameter(tokens.clone())

    def update_layer(self, adapter_name: str, config: LatentHookConfig, reads: str):
        """Give the layer an adapter's gate and transform."""
        self.hook_reads[adapter_name] = reads
        # (1,) and not a scalar, which sharding refuses
        gate = config.gate_bias_init if config.init_weights else 1.0
        self.latent_hook_gate[adapter_name] = nn.Parameter(torch.full((1,), gate))
        if config.use_transform:
            width = layer_width(self.get_base_layer())
            self.latent_hook_down[adapter_name] = nn.Linear(width, config.transform_dim)
            self.latent_hook_up[adapter_name] = nn.Linear(config.transform_dim, width)
            if config.init_weights:
                nn.init.zeros_(self.latent_hook_up[adapter_name].weight)
                nn.init.zeros_(self.latent_hook_up[adapter_name].bias)

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module):
        """What peft's `_move_adapter_to_device_of_base_layer` asks; a transformer layer has no weight of its own."""
        for module in base_layer.modules():
            for weight in module.parameters(recurse=False):
                if weight.is_floating_point():
                    return execution_device(module) or weight.device, weight.dtype
        return None, None

    def get_base_layer(self) -> nn.Module:
        """The transformer layer."""
        return self._layer[0]

    def release(self):
        """Leave the layer as it was."""
        layer = self.get_base_layer()
        if layer.__dict__.get("_old_forward") == self._forward_joined:  # accelerate has put its own forward on ours
            layer._old_forward = self._shadowed_forward or MethodType(type(layer).forward, layer)
        elif self._shadowed_forward is not None:
            layer.forward = self._shadowed_forward
        else:
            del layer.forward
        delattr(layer, LATENT_HOOKS)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        raise NotImplementedError(MERGE_REFUSAL)

    def unmerge(self) -> None:
        raise NotImplementedError(MERGE_REFUSAL)

    def _replicate_for_data_parallel(self):
        raise RuntimeError(
            "torch's DataParallel copies modules for each call and leaves hooks with the original: use "
            "DistributedDataParallel, for example by `accelerate launch`."
        )

    # --- its forward ---------------------------------------------------------------------------------------------

    def _base_forward(self, *args, **kwargs):
        if self._shadowed_forward is not None:
            return self._shadowed_forward(*args, **kwargs)
        layer = self.get_base_layer()
        return type(layer).forward(layer, *args, **kwargs)

    def _forward_joined(self, *args, **kwargs):
        given = dict(zip(self._parameter_names, args)) | kwargs
        content = given[self._parameter_names[0]]
        adapters = self._taking_part(len(content))
        if not adapters:
            return self._base_forward(*args, **kwargs)
        # nothing calls the dictionaries of parameters, so that accelerate would not load them
        with onload_layer(self) if execution_device(self.latent_hook_gate) else nullcontext():
            states = self._states(adapters, content)
            counts = tuple(state.shape[1] for state in states)
            if sum(counts) == 0:  # a call brought states, and none of them
                return self._base_forward(*args, **kwargs)
            given["attention_mask"] = self._joined_mask(given, content, adapters, counts)
        count = sum(counts)
        self.chain.joined = dict(zip(adapters, counts))

        given[self._parameter_names[0]] = torch.cat([*states, content], dim=1)
        self._make_room(given, count, content.shape[1])
        # arguments stay positional or keywords as they came: reentrant checkpointing depends on it
        args = [given.pop(name) for name in self._parameter_names[: len(args)]]
        output = self._base_forward(*args, **given)

        joined = output[0] if isinstance(output, tuple) else output
        *states, content = joined.split([*counts, content.shape[1]], dim=1)
        self.chain.states.update(zip(adapters, states))
        return (content, *output[1:]) if isinstance(output, tuple) else content

    def _taking_part(self, batch: int) -> list[str]:
        """The adapters of this call in this layer, by name: the order of registration has no effect."""
        if self.disable_adapters:
            return []
        rows = self.chain.adapter_names
        if rows is not None and batch not in (len(rows), len(rows) * self.chain.num_beams):
            raise ValueError(  # an encoder runs once for all beams
                "Length of `adapter_names` should be the same as the number of inputs, but got "
                f"{len(rows)} and {batch} respectively."
            )
        names = self.active_adapters if rows is None else rows
        begun = {*self.chain.states, *self.latent_hook_tokens}  # a stack may skip the layer in which hooks begin
        return sorted({name for name in names if name in self.latent_hook_gate and name in begun})

    def _states(self, adapters: list[str], content: torch.Tensor) -> list[torch.Tensor]:
        """The adapters' hooks on their way in, each (B, N, D)."""
        states = {name: self._entering(name, content) for name in adapters}
        alike: dict[tuple, list[str]] = {}
        for name in adapters:
            if name in self.latent_hook_down:
                width = self.latent_hook_down[name].out_features
                alike.setdefault((states[name].shape, width), []).append(name)
        for names in alike.values():
            downs, ups = [self.latent_hook_down[name] for name in names], [self.latent_hook_up[name] for name in names]
            states.update(zip(names, transform([states[name] for name in names], downs, ups)))
        return [states[name].to(content) for name in adapters]  # layers may be on different devices

    def _entering(self, name: str, content: torch.Tensor) -> torch.Tensor:
        """An adapter's hooks as the last hooked layer left them; in the first one, as they begin."""
        state = self.chain.states.get(name)
        state = self.chain.begin(name, self.latent_hook_tokens[name], content) if state is None else state
        return state.to(self.latent_hook_gate[name].device)

    def _joined_mask(self, given: dict, content: torch.Tensor, adapters: list[str], counts: tuple):
        """The mask of this layer's joined sequence, (B, H or 1, N + T, N + K)."""
        check_kernel(self._attention_config)  # which may have been changed since
        mask, length = given.get("attention_mask"), content.shape[1]
        causal = given.get("is_causal", self._is_causal)
        cache = self_attention_cache(next((given[name] for name in CACHES if given.get(name) is not None), None))
        keys = length if cache is None else cache.get_mask_sizes(length, self._cache_index)[0]
        joined = self.chain.once(
            mask,
            (tuple((name, self.hook_reads[name]) for name in adapters), counts, length, keys, causal, content.device),
            lambda: self._join(own_mask(mask, content, keys, causal), content, cache, adapters, counts),
        )
        gates = [self.latent_hook_gate[name] for name in adapters]
        gates = torch.cat(gates) if len(gates) > 1 else gates[0]
        mask = joined.with_gates(F.logsigmoid(gates.to(content.device, torch.float32)))
        return mask if self._takes_gated_mask else mask.additive()

    def _join(self, mask, content, cache, adapters, counts) -> JoinedMask:
        batch, device = len(content), content.device
        seen = visible(mask).expand(batch, -1, -1)
        past = cache is not None and cache.get_seq_length(self._cache_index) > 0
        settings = [self.hook_reads[name] for name in adapters]
        reads = {setting: self.chain.read(setting, seen, cache, past) for setting in settings}
        open_to = reaches(seen, functools.reduce(torch.logical_or, reads.values()))

        # written down as lists, so that nothing waits for the device
        of_hook = [name for name, count in zip(adapters, counts) for _ in range(count)]
        gate_of_hook = torch.tensor([[name == other for other in adapters] for name in of_hook])
        gate_of_hook = gate_of_hook.to(device, non_blocking=True)
        hooks_see = torch.ones(1, len(of_hook), len(of_hook), dtype=torch.bool, device=device)
        may_attend = open_to.unsqueeze(-1).expand(-1, -1, len(of_hook))
        if self.chain.adapter_names is not None:
            served = torch.tensor(self._rows_served(of_hook, batch), device=device).unsqueeze(1)
            hooks_see = served | (gate_of_hook.unsqueeze(1) & gate_of_hook).any(dim=-1)
            may_attend = may_attend & served
        return JoinedMask(
            mask,
            hooks_see=hooks_see,
            hooks_read=torch.stack([reads[self.hook_reads[name]] for name in of_hook], dim=1),
            may_attend=may_attend,
            gate_of_hook=gate_of_hook,
            dtype=compute_dtype(content),
        )

    def _rows_served(self, of_hook: list[str], batch: int) -> list[list[bool]]:
        """For each row of a mixed batch, the hook tokens that serve it."""
        rows = self.chain.adapter_names
        return [[row == name for name in of_hook] for row in rows for _ in range(batch // len(rows))]

    def _make_room(self, given: dict, count: int, length: int):
        """Extend what comes along with the hidden states by `count` tokens at the head of the sequence."""
        for name in CACHES:
            if given.get(name) is not None:
                given[name] = past_hooks(given[name], count)
        for name in ROTARY:
            if given.get(name) is not None:
                rotary = given[name]
                cosines = rotary[0] if isinstance(rotary, tuple) else rotary
                given[name] = self.chain.once(
                    cosines, (name, count), functools.partial(without_rotation, rotary, count)
                )
        if given.get("position_ids") is not None:
            given["position_ids"] = F.pad(given["position_ids"], (count, 0))
        cross = given.get("encoder_attention_mask")
        if cross is not None and cross.ndim == 4 and cross.shape[2] == length:
            given["encoder_attention_mask"] = torch.cat([cross[:, :, :1].expand(-1, -1, count, -1), cross], dim=2)


def execution_device(module: nn.Module) -> torch.device | None:
    """Where accelerate loads the weights of a module that it keeps elsewhere; `None` for any other module."""
    hook = getattr(module, "_hf_hook", None)
    return torch.device(hook.execution_device) if isinstance(hook, AlignDevicesHook) and hook.offload else None


def hooked_layers(model: nn.Module) -> list[LatentHookLayer]:
    return [module for module in model.modules() if isinstance(module, LatentHookLayer)]


def without_rotation(rotary, count: int):
    """Cosines and sines (..., T, d) with `count` positions that turn nothing before them."""
    if not (isinstance(rotary, tuple) and len(rotary) == 2 and rotary[0].is_floating_point()):
        raise ValueError(f"Hooks know rotary positions as a pair of cosines and sines, got {type(rotary).__name__}.")
    cos, sin = rotary
    room = (*cos.shape[:-2], count, cos.shape[-1])
    return torch.cat([cos.new_ones(room), cos], dim=-2), torch.cat([sin.new_zeros(room), sin], dim=-2)
