"""Hooks on one transformer layer.

Shapes: B batch, T content tokens, K content keys, N hook tokens, D hidden size.
"""

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.nn import functional as F

from .configuration_latent_hook import LatentHookConfig
from .hook_cache import past_hooks, self_attention_cache
from .hook_chain import HookChain
from .hook_masks import compute_dtype, join_masks, own_mask, reaches, visible
from .hookable_layers import cache_index, forward_parameters, is_causal, layer_width

TOKEN_STD = 0.02  # the usual scale of token embeddings
BASE = "__base__"  # peft's name for rows of a mixed batch without an adapter
CACHES = ("past_key_values", "layer_past")  # one thing, named differently by models
ROTARY = ("position_embeddings", "rotary")
MERGE_REFUSAL = "Latent hooks cannot be merged or unmerged: they are tokens and not a change of weights; `unload()` takes them off."


class LatentHookLayer(nn.Module, BaseTunerLayer):
    """A transformer layer whose sequence hook tokens join.

    The layer runs once over `[hooks; content]`. Content sees hook j with its attention score raised by log sigmoid(b),
    which scales j's weight by sigmoid(b) before normalisation; scaling the tokens instead would be undone by the norm
    that follows. Hooks are not rotated: they have no position. What comes out for them is their state, which the next
    hooked layer takes up.

    The first hooked layer of a stack holds the tokens; each has its gates and its transforms.

    `base_layer.forward` is shadowed rather than called from outside, so that forward hooks on the layer, which record
    `output_hidden_states` for one, see content alone. Checkpointing wraps what is shadowed: recomputation starts from
    the joined sequence and touches no state.
    """

    adapter_layer_names = ("latent_hook_tokens", "latent_hook_gate", "latent_hook_down", "latent_hook_up")
    other_param_names = ("hook_reads",)

    def __init__(self, base_layer: nn.Module, chain: HookChain):
        super().__init__()
        self.base_layer = base_layer
        self.chain = chain
        self.latent_hook_tokens = nn.ParameterDict()
        self.latent_hook_gate = nn.ParameterDict()
        self.latent_hook_down = nn.ModuleDict()
        self.latent_hook_up = nn.ModuleDict()
        self.hook_reads: dict[str, str] = {}
        self._parameter_names = forward_parameters(base_layer)
        self._cache_index = cache_index(base_layer)
        self._is_causal = is_causal(base_layer)
        # accelerate, too, puts a forward of its own on modules
        self._shadowed_forward = base_layer.__dict__.get("forward")
        base_layer.forward = self._forward_joined
        self.train(base_layer.training)

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
        weight = next((weight for weight in base_layer.parameters() if weight.is_floating_point()), None)
        return (None, None) if weight is None else (weight.device, weight.dtype)

    def release(self) -> nn.Module:
        """The base layer as it was."""
        del self.base_layer.forward
        if self._shadowed_forward is not None:
            self.base_layer.forward = self._shadowed_forward
        return self.base_layer

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        raise NotImplementedError(MERGE_REFUSAL)

    def unmerge(self) -> None:
        raise NotImplementedError(MERGE_REFUSAL)

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            return getattr(self.base_layer, name)  # models ask their layers for an attention type and the like

    # --- its forward ---------------------------------------------------------------------------------------------

    def forward(self, *args, **kwargs):
        return self.base_layer(*args, **kwargs)

    def _base_forward(self, *args, **kwargs):
        if self._shadowed_forward is not None:
            return self._shadowed_forward(*args, **kwargs)
        return type(self.base_layer).forward(self.base_layer, *args, **kwargs)

    def _forward_joined(self, *args, **kwargs):
        adapters = self._taking_part()
        if not adapters:
            return self._base_forward(*args, **kwargs)
        given = dict(zip(self._parameter_names, args)) | kwargs
        content = given[self._parameter_names[0]]
        states = [self._state(name, content) for name in adapters]
        count = sum(state.shape[1] for state in states)

        given["attention_mask"] = self._joined_mask(given, content, adapters, [state.shape[1] for state in states])
        given[self._parameter_names[0]] = torch.cat([*states, content], dim=1)
        self._make_room(given, count, content.shape[1])
        # arguments stay positional or keywords as they came: reentrant checkpointing depends on it
        args = [given.pop(name) for name in self._parameter_names[: len(args)]]
        output = self._base_forward(*args, **given)

        joined = output[0] if isinstance(output, tuple) else output
        *states, content = joined.split([*(state.shape[1] for state in states), content.shape[1]], dim=1)
        self.chain.states.update(zip(adapters, states))
        return (content, *output[1:]) if isinstance(output, tuple) else content

    def _taking_part(self) -> list[str]:
        """The adapters of this call in this layer, by name: the order of registration has no effect."""
        if self.disable_adapters:
            return []
        names = self.active_adapters if self.chain.adapter_names is None else self.chain.adapter_names
        begun = {*self.chain.states, *self.latent_hook_tokens}  # a stack may skip the layer in which hooks begin
        return sorted({name for name in names if name in self.latent_hook_gate and name in begun})

    def _state(self, name: str, content: torch.Tensor) -> torch.Tensor:
        """An adapter's hooks on their way in: s + up(gelu(down(norm(s)))), (B, N, D)."""
        state = self.chain.states.get(name)
        if state is None:
            state = self.latent_hook_tokens[name].expand(len(content), -1, -1)
        if name in self.latent_hook_down:
            down, up = self.latent_hook_down[name], self.latent_hook_up[name]
            state = state.to(down.weight.dtype)
            state = state + up(F.gelu(down(F.layer_norm(state, state.shape[-1:]))))
        return state.to(content.dtype)

    def _joined_mask(self, given, content, adapters, counts) -> torch.Tensor:
        batch, length = content.shape[:2]
        cache = self_attention_cache(next((given[name] for name in CACHES if given.get(name) is not None), None))
        keys = length if cache is None else cache.get_mask_sizes(length, self._cache_index)[0]
        mask = own_mask(given.get("attention_mask"), content, keys, given.get("is_causal", self._is_causal))
        seen = visible(mask).expand(batch, -1, -1)
        past = cache is not None and cache.get_seq_length(self._cache_index) > 0
        reads = [self.chain.read(self.hook_reads[name], seen, cache, past) for name in adapters]
        open_to = reaches(seen, torch.stack(reads).any(dim=0)).unsqueeze(-1)

        served = self._rows_served(adapters, batch, content.device)
        itself = torch.eye(len(adapters), dtype=torch.bool, device=content.device)
        # from one entry per adapter to one per hook token
        adapter = torch.repeat_interleave(torch.tensor(counts, device=content.device), output_size=sum(counts))
        gates = torch.cat([self.latent_hook_gate[name] for name in adapters])
        return join_masks(
            mask,
            hooks_see=(served.unsqueeze(1) | itself)[:, adapter][:, :, adapter],
            hooks_read=torch.stack(reads, dim=1)[:, adapter],
            may_attend=(open_to & served.unsqueeze(1))[:, :, adapter],
            log_gate=F.logsigmoid(gates.float())[adapter],
            dtype=compute_dtype(content),
        )

    def _rows_served(self, adapters, batch, device) -> torch.Tensor:
        """Which rows of the batch each adapter serves: (B, adapters)."""
        rows = self.chain.adapter_names
        if rows is None:
            return torch.ones(batch, len(adapters), dtype=torch.bool, device=device)
        if batch not in (len(rows), len(rows) * self.chain.num_beams):  # an encoder runs once for all beams
            raise ValueError(
                "Length of `adapter_names` should be the same as the number of inputs, but got "
                f"{len(rows)} and {batch} respectively."
            )
        served = torch.tensor([[row == name for name in adapters] for row in rows], device=device)
        return served.repeat_interleave(batch // len(rows), dim=0)

    def _make_room(self, given: dict, count: int, length: int):
        """Extend what comes along with the hidden states by `count` tokens at the head of the sequence."""
        for name in CACHES:
            if given.get(name) is not None:
                given[name] = past_hooks(given[name], count)
        for name in ROTARY:
            if given.get(name) is not None:
                given[name] = without_rotation(given[name], count)
        if given.get("position_ids") is not None:
            given["position_ids"] = F.pad(given["position_ids"], (count, 0))
        cross = given.get("encoder_attention_mask")
        if cross is not None and cross.ndim == 4 and cross.shape[2] == length:
            given["encoder_attention_mask"] = torch.cat([cross[:, :, :1].expand(-1, -1, count, -1), cross], dim=2)


def without_rotation(rotary, count: int):
    """Cosines and sines (..., T, d) with `count` positions that turn nothing before them."""
    if not (isinstance(rotary, tuple) and len(rotary) == 2 and rotary[0].is_floating_point()):
        raise ValueError(f"Hooks know rotary positions as a pair of cosines and sines, got {type(rotary).__name__}.")
    cos, sin = rotary
    room = (*cos.shape[:-2], count, cos.shape[-1])
    return torch.cat([cos.new_ones(room), cos], dim=-2), torch.cat([sin.new_zeros(room), sin], dim=-2)
