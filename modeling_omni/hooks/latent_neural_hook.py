"""Latent Neural Hooks by hand: make one, register it on a model, remove it."""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import fields

from torch import nn

from .configuration_latent_hook import LatentHookConfig
from .latent_hook_layer import LatentHookLayer


class LatentNeuralHook:
    """
    A named hook, to be given to `model.register_hook`; a thin name for `LatentHookConfig` and `model.add_adapter`.

    Args:
        name: what the hook is called; without dots.
        num_tokens: hook tokens that join each layer's sequence.
        dim: the model's hidden size.
        target_layers: indices of the layers it joins; `None`: all.
        gate_bias_init: start b of the gates; sigmoid(-4) is 0.018.
        use_transform: an MLP changes the hook's state between layers.
        settings: further fields of `LatentHookConfig`, such as `reads` and `transform_dim`.

    Example:

    ```python
    >>> from omnilatent import LatentNeuralHook, OmniLatentConfig, OmniLatentModel

    >>> model = OmniLatentModel(OmniLatentConfig.tiny())
    >>> hook = LatentNeuralHook("style", num_tokens=4, dim=model.config.hidden_size, target_layers=[0, 1])
    >>> model.register_hook(hook)
    >>> sum(parameter.numel() for parameter in hook.parameters()) > 0
    True
    >>> model.remove_hook("style")
    ```
    """

    def __init__(
        self,
        name: str,
        num_tokens: int = 8,
        dim: int = 768,
        target_layers: Sequence[int] | None = None,
        gate_bias_init: float = -4.0,
        use_transform: bool = True,
        **settings,
    ):
        known = [field.name for field in fields(LatentHookConfig)]
        for word in settings.keys() - known:
            close = difflib.get_close_matches(word, [*known, "dim", "target_layers"], n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"LatentNeuralHook has no setting {word!r}.{hint}")
        if not isinstance(name, str):
            raise ValueError(f"`name` is {name!r}, expected a string.")
        if isinstance(target_layers, int):
            target_layers = [target_layers]
        self.name = name
        self.config = LatentHookConfig(
            num_tokens=num_tokens,
            hidden_size=dim,
            layers_to_transform=None if target_layers is None else list(target_layers),
            gate_bias_init=gate_bias_init,
            use_transform=use_transform,
            **settings,
        )
        self._layers: list[LatentHookLayer] = []

    def bind(self, layers: list[LatentHookLayer]):
        """Remember the layers that hold this hook's parameters."""
        self._layers = layers

    @property
    def is_registered(self) -> bool:
        """Whether a model holds this hook's parameters."""
        return any(self.name in layer.latent_hook_gate for layer in self._layers)

    def parameters(self) -> Iterator[nn.Parameter]:
        """The hook's parameters in the model; none before it is registered."""
        for layer in self._layers:
            for container in layer.adapter_layer_names:
                entry = getattr(layer, container)
                if self.name in entry:
                    entry = entry[self.name]
                    yield from [entry] if isinstance(entry, nn.Parameter) else entry.parameters()
