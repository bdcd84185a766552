"""What hooked layers of one stack hand to each other during one call."""

import threading
from collections.abc import Callable

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.utils import is_torchdynamo_compiling

from .hook_masks import first_reach


class HookChain:
    """The slot through which the state of hooks passes from layer to layer.

    It lives as long as one forward of the module that owns the layers, and is empty before and after, also when that
    forward raises.

    Attributes:
        states: (B, N, D) of each adapter as the last hooked layer left it.
        reads: (B, K) of each way of reading, found by the call's first hooked layer.
        read_mask: (B, T) as given to the owner's forward as `hook_read_mask`.
        given: states that came with the call, by adapter, see `HookStates`.
        repeats: how often at most a generation repeats each of their rows.
        joined: number of tokens of each adapter in the layer that runs now.
        adapter_names: adapter of each row of a mixed batch; `None`: the active adapters serve all rows.
        owner_trains: whether that module is in training mode.
        num_beams: how often a generation repeats each of those rows.
    """

    def __init__(self, owner: nn.Module):
        self.adapter_names: list[str] | None = None
        self.num_beams = 1
        self.given: dict[str, torch.Tensor] = {}
        self.repeats = 1
        self.joined: dict[str, int] = {}
        self.owner_trains = owner.training
        self._thread: int | None = None  # which one calls the owner now
        self._empty()
        self._handles = (
            owner.register_forward_pre_hook(self._open, with_kwargs=True),
            owner.register_forward_hook(self._close, always_call=True),
        )

    def _empty(self):
        self.states: dict[str, torch.Tensor] = {}
        self.reads: dict[str, torch.Tensor] = {}
        self.read_mask: torch.Tensor | None = None
        self._made: list[tuple[object, tuple, object]] = []

    def once(self, source: object, key: tuple, make: Callable):
        """`make()`, made once in a call for this very `source` and this `key`: layers share what costs as much."""
        for kept_source, kept_key, made in self._made:
            if kept_source is source and kept_key == key:
                return made
        made = make()
        self._made.append((source, key, made))
        return made

    def _open(self, owner, args, kwargs):
        self._enter()
        self._empty()
        self.owner_trains = owner.training
        kwargs = dict(kwargs)
        if kwargs.get("hook_states") is not None:  # the model in between takes what is meant for it
            raise ValueError("Give `hook_states` to the model that the hooks were attached to, not to a part of it.")
        self.read_mask = kwargs.pop("hook_read_mask", None)
        return args, kwargs

    def _enter(self):
        if is_torchdynamo_compiling():
            return
        if self._thread not in (None, threading.get_ident()):
            raise RuntimeError(
                "A second thread calls this model while its hooks are at work, whose state it holds: give each thread a "
                "copy of the model, or let calls wait for each other."
            )
        self._thread = threading.get_ident()

    def _close(self, owner, args, output):
        if is_torchdynamo_compiling() or self._thread == threading.get_ident():  # not a refused second one
            self._empty()
            self._thread = None

    def begin(self, name: str, tokens: torch.Tensor, content: torch.Tensor) -> torch.Tensor:
        """An adapter's hooks where they begin, (B, N, D): the states that came with the call, else its tokens (N, D)."""
        batch, states = len(content), self.given.get(name)
        if states is None:
            return tokens.expand(batch, -1, -1)
        states = states.to(content.device)
        if states.ndim == 2:
            return states.expand(batch, -1, -1)
        if batch not in (len(states), len(states) * self.repeats):  # an encoder runs once for all beams
            raise ValueError(f"`hook_states` for {name!r} has {len(states)} rows, this call has {batch}.")
        return states.repeat_interleave(batch // len(states), dim=0)

    def read(self, setting: str, seen: torch.Tensor, cache: Cache | None, past: bool) -> torch.Tensor:
        """The content that hooks read, (B, K).

        The call's first hooked layer finds it; a generation keeps what it was when its cache was filled.

        Args:
            setting: see `LatentHookConfig.reads`.
            seen: (B, T, K), what each position sees in this layer.
            cache: keys of earlier content, if any.
            past: whether the cache holds some.
        """
        if setting == "none":
            return torch.zeros_like(seen[:, 0])
        if setting not in self.reads:
            kept = {} if cache is None else cache.__dict__.setdefault("latent_hook_reads", {})
            if not past:
                kept[setting] = self._begin_reading(setting, seen, cache)
            elif setting not in kept:
                raise ValueError(
                    f"The cache was filled without hooks that read {setting!r}: start the generation anew."
                )
            self.reads[setting] = kept[setting]
        read = self.reads[setting].to(seen.device)
        return nn.functional.pad(read, (0, seen.shape[2] - read.shape[1]))

    def _begin_reading(self, setting: str, seen: torch.Tensor, cache: Cache | None) -> torch.Tensor:
        if setting == "prefix":
            return first_reach(seen)
        if self.read_mask is not None:
            if self.read_mask.shape != seen.shape[:2]:
                raise ValueError(
                    f"`hook_read_mask` has shape {tuple(self.read_mask.shape)}, expected {tuple(seen.shape[:2])}."
                )
            marked = nn.functional.pad(self.read_mask.bool(), (0, seen.shape[2] - seen.shape[1]))
            return marked & seen.any(dim=1)  # padding is never read
        if cache is None or self.owner_trains:
            raise ValueError(
                "Hooks with reads='prompt' need `hook_read_mask` (batch, length), True where the prompt is, unless "
                "they generate with a cache."
            )
        return seen[:, -1]

    def remove(self):
        """Leave the owner's forward alone again."""
        for handle in self._handles:
            handle.remove()
