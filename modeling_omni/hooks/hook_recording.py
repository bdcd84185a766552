"""Looking at hooks at work: what they read, and who reads them.

Shapes: B batch, H heads, T content queries, K content keys, N hook tokens of all adapters together.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from .latent_hook_layer import LATENT_HOOKS, LatentHookLayer


@dataclass
class HookRecord:
    """One pass through one hooked layer.

    Attributes:
        layer: name of the layer in the model.
        tokens: number of tokens of each adapter, in the order in which they stand at the head of the sequence.
        gates: σ(b) of each adapter.
        reads: (B, H, N, N + K), attention weights of the hooks' queries on the hooks and on the content.
        readers: (B, H, T, N), attention weights of the content's queries on the hooks.
    """

    layer: str
    tokens: dict[str, int]
    gates: dict[str, float]
    reads: torch.Tensor
    readers: torch.Tensor

    def rows_of(self, adapter: str) -> slice:
        """Where among the N hook tokens an adapter's are."""
        if adapter not in self.tokens:
            raise ValueError(f"No hooks {adapter!r} took part in {self.layer}, but {', '.join(self.tokens)}.")
        names = list(self.tokens)
        start = sum(self.tokens[name] for name in names[: names.index(adapter)])
        return slice(start, start + self.tokens[adapter])


@contextmanager
def record_hooks(model: nn.Module) -> Iterator[list[HookRecord]]:
    """Collect, while the context lasts, what hooks read in each hooked layer and who reads them.

    The model computes what it always does; the weights are those it computed with, detached. Each call adds a record
    for each hooked layer that hooks took part in, in order; a step of a generation is a call.

    Args:
        model: a model with hooks, by whatever way they were attached, with attention kernel "eager": no other
            kernel has its weights to show.

    Raises:
        ValueError: for a model without hooks; by the model's call, when its attention shows no weights; and at the
            end, when there is nothing to show: no call, hooks that were off, or a compiled model.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent import LatentNeuralHook, OmniLatentConfig, OmniLatentModel, record_hooks

    >>> model = OmniLatentModel(OmniLatentConfig.tiny())
    >>> model.set_attn_implementation("eager")
    >>> model.register_hook(LatentNeuralHook("style", num_tokens=4, dim=model.config.hidden_size, target_layers=[1]))
    >>> with record_hooks(model) as records:
    ...     output = model("image", torch.randn(1, 3, 32, 32), "audio")
    >>> [(record.layer, record.tokens) for record in records]
    [('layers.1', {'style': 4})]
    ```
    """
    hooks = {name: module for name, module in model.named_modules() if isinstance(module, LatentHookLayer)}
    layers = {name.removesuffix(f".{LATENT_HOOKS}"): module for name, module in hooks.items()}
    if not layers:
        raise ValueError(f"{type(model).__name__} has no hooks to record.")
    records: list[HookRecord] = []
    recorders = [_Recorder(name, layer, records) for name, layer in layers.items()]
    try:
        yield records
    finally:
        for recorder in recorders:
            recorder.remove()
    if not records:
        raise ValueError(
            "Nothing was recorded: the model was not called, its hooks are off, or it runs as a compiled graph."
        )


class _Recorder:
    """Watches one hooked layer and the attention within."""

    def __init__(self, name: str, layer: LatentHookLayer, records: list[HookRecord]):
        self.name, self.layer, self.records = name, layer, records
        self.weights: torch.Tensor | None = None
        base = layer.get_base_layer()
        self._handles = [
            base.register_forward_pre_hook(self._begin),
            base.register_forward_hook(self._end),
            *(part.register_forward_hook(self._attend) for part in base.modules() if part is not base),
        ]

    def _begin(self, module, args):
        self.weights, self.layer.chain.joined = None, {}

    def _attend(self, module, args, output):
        # self-attention comes before any other, and is done before what wraps it
        if self.weights is None and isinstance(output, tuple) and len(output) > 1:
            if torch.is_tensor(output[1]) and output[1].ndim == 4:
                self.weights = output[1].detach()

    def _end(self, module, args, output):
        tokens = self.layer.chain.joined
        if not tokens:
            return
        if self.weights is None:
            raise ValueError(
                f"The attention of {self.name} shows no weights: recording hooks needs attn_implementation='eager', for "
                "example by `model.set_attn_implementation('eager')`."
            )
        count = sum(tokens.values())
        gates = {name: torch.sigmoid(self.layer.latent_hook_gate[name]).item() for name in tokens}
        reads, readers = self.weights[:, :, :count], self.weights[:, :, count:, :count]
        self.records.append(HookRecord(self.name, tokens, gates, reads, readers))

    def remove(self):
        for handle in self._handles:
            handle.remove()
