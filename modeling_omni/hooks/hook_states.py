"""States of hooks that come with a call: what a retrieval found, or what an encoder made of another modality."""

from collections.abc import Mapping

import torch
from torch import nn
from transformers import GenerationMixin

from .latent_hook_layer import LatentHookLayer, hooked_layers


class HookStates:
    """Lets a model be called with states for its hooks.

    `model(..., hook_states={"facts": states})` and `model.generate(..., hook_states=...)` put the states, (B, N, D) or
    (N, D) for all rows, in the place of the tokens that the adapter "facts" has learned, where its hooks begin. N is
    free. What made the states receives gradients. While adapters are disabled, the states go unused with them.

    Args:
        root: the model that adapters are attached to. Its forward gets a hook, and its `generate`, if it has one, is
            shadowed: a generation calls stacks in its own way, an encoder for one, and each of its steps needs the
            states.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent import LatentNeuralHook, OmniLatentConfig, OmniLatentModel

    >>> model = OmniLatentModel(OmniLatentConfig.tiny())
    >>> model.register_hook(LatentNeuralHook("facts", num_tokens=4, dim=model.config.hidden_size))
    >>> found = torch.randn(1, 6, model.config.hidden_size)
    >>> model("image", torch.randn(1, 3, 32, 32), "audio", hook_states={"facts": found}).output.shape
    torch.Size([1, 16, 24])
    ```
    """

    def __init__(self, root: nn.Module):
        self.root = root
        self._called_with_states = False
        self._handles = (
            # before the slot of a stack, which may be this very module
            root.register_forward_pre_hook(self._open, with_kwargs=True, prepend=True),
            root.register_forward_hook(self._close, always_call=True),
        )
        if isinstance(root, GenerationMixin):
            self._shadowed_generate = root.__dict__.get("generate")
            root.generate = self._generate

    def _open(self, root, args, kwargs):
        if self._called_with_states:  # that call was interrupted
            self._close(root, args, None)
        if kwargs.get("labels") is not None and kwargs.get("hook_read_mask") is None:
            self._refuse_missing_prompt()
        if "hook_states" not in kwargs:
            return None
        kwargs = dict(kwargs)
        states = kwargs.pop("hook_states")
        if states is not None:
            self._give(states)
            self._called_with_states = True
        return args, kwargs

    def _close(self, root, args, output):
        if self._called_with_states:
            self._called_with_states = False
            self._give({})

    def _generate(self, *args, hook_states: Mapping[str, torch.Tensor] | None = None, **kwargs):
        generate = self._shadowed_generate or type(self.root).generate.__get__(self.root)
        settings = {**dict(zip(("inputs", "generation_config"), args)), **kwargs}
        self._refuse_other_prompts(**settings)
        if hook_states is None:
            return generate(*args, **kwargs)
        try:
            self._give(hook_states, repeats=self._repeats(**settings))
            return generate(*args, **kwargs)
        finally:
            self._give({})

    def _give(self, states: Mapping[str, torch.Tensor], repeats: int = 1):
        """Hand the states to the stacks, whose rows repeat each of theirs `repeats` times at most."""
        layers = hooked_layers(self.root)
        check_states(layers, states)
        for layer in layers:
            layer.chain.given, layer.chain.repeats = dict(states), repeats

    def _repeats(self, generation_config=None, num_beams=None, num_return_sequences=None, **kwargs) -> int:
        """How many rows a generation makes of one."""
        config = generation_config or self.root.generation_config
        return max(num_beams or config.num_beams or 1, num_return_sequences or config.num_return_sequences or 1)

    def _refuse_other_prompts(
        self,
        generation_config=None,
        assistant_model=None,
        prompt_lookup_num_tokens=None,
        prefill_chunk_size=None,
        **kwargs,
    ):
        """Hooks that read the prompt take a generation's first pass for it, which must be the whole prompt alone."""
        config = generation_config or self.root.generation_config
        guessed = assistant_model is not None or prompt_lookup_num_tokens or config.prompt_lookup_num_tokens
        if not guessed and not (prefill_chunk_size or config.prefill_chunk_size):
            return
        for name in self._prompt_readers():
            raise ValueError(
                f"The hooks {name!r} read the prompt, for which they take the first pass of a generation: use neither "
                "assisted decoding, whose guesses come with it, nor `prefill_chunk_size`."
            )

    def _refuse_missing_prompt(self):
        """A call with labels is no generation, whose first pass is the prompt."""
        for name in self._prompt_readers():
            raise ValueError(
                f"The hooks {name!r} read the prompt: a call with `labels` needs `hook_read_mask` (batch, length), True "
                "where the prompt is. Trainer passes it on with `remove_unused_columns=False`."
            )

    def _prompt_readers(self) -> list[str]:
        """The hooks at work that read the prompt."""
        layers = [layer for layer in hooked_layers(self.root) if not layer.disable_adapters]
        names = {name for layer in layers for name in layer.active_adapters if layer.hook_reads.get(name) == "prompt"}
        return sorted(names)

    def remove(self):
        """Leave the model's forward and `generate` alone again."""
        for handle in self._handles:
            handle.remove()
        if isinstance(self.root, GenerationMixin):
            del self.root.generate
            if self._shadowed_generate is not None:
                self.root.generate = self._shadowed_generate


def check_states(layers: list[LatentHookLayer], states: Mapping[str, torch.Tensor]):
    """Refuse states that no active adapter takes, or that do not fit where it begins.

    Raises:
        ValueError: for a name without hooks, hooks that are not active, and states of another form or width.
    """
    if not isinstance(states, Mapping):
        raise ValueError(f"`hook_states` is a {type(states).__name__}, expected a dict from adapters to states.")
    begins = {}  # where each adapter's hooks do
    for layer in layers:
        for name, tokens in layer.latent_hook_tokens.items():
            begins.setdefault(name, []).append((layer, tokens))
    for name, state in states.items():
        if name not in begins:
            raise ValueError(
                f"`hook_states` names {name!r}, which are no hooks; there are: {', '.join(sorted(begins)) or 'none'}."
            )
        for layer, tokens in begins[name]:
            active = layer.active_adapters if layer.chain.adapter_names is None else layer.chain.adapter_names
            if name not in active:
                raise ValueError(f"`hook_states` names {name!r}, which is not active: set it with `set_adapter`.")
            width = tokens.shape[-1]
            if not (torch.is_tensor(state) and state.is_floating_point() and state.ndim in (2, 3)):
                form = tuple(state.shape) if torch.is_tensor(state) else type(state).__name__
                raise ValueError(
                    f"`hook_states` for {name!r} is {form}, expected floats (batch, tokens, {width}) or (tokens, {width})."
                )
            if state.shape[-1] != width:
                raise ValueError(
                    f"`hook_states` for {name!r} has shape {tuple(state.shape)}, the hooked layers are {width} wide."
                )
