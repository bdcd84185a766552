"""What of a model is exported: graphs, each with the tensors it reads and gives.

A graph is named after its use: "model" gives logits, "text_encoder" or "image_encoder" embeddings, "encoder" and
"decoder" together write text.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn


@dataclass(frozen=True)
class TensorSpec:
    """One tensor that a graph reads.

    Args:
        shape: A number, or the name of an axis whose length may change from call to call.
        kind: `"values"` float32; `"tokens"` int64 in [0, `high`); `"mask"` int64, 1 for what is real.
    """

    shape: tuple[int | str, ...]
    kind: str = "values"
    high: int = 0

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.kind == "values" else torch.int64

    def sample(self, sizes: dict[str, int], generator: torch.Generator) -> torch.Tensor:
        """A tensor with axes of these lengths. Masks leave out an end of each sample but the first, right and left in turn."""
        shape = [sizes.get(axis, axis) for axis in self.shape]
        if self.kind == "values":
            return torch.randn(shape, generator=generator)
        if self.kind == "tokens":
            return torch.randint(self.high, shape, generator=generator)
        lengths = torch.randint(1, shape[-1] + 1, (shape[0], 1), generator=generator)
        lengths[0] = shape[-1]
        places = torch.arange(shape[-1]).expand(shape)
        on_the_right = torch.arange(shape[0])[:, None] % 2 == 1
        return torch.where(on_the_right, places < lengths, places >= shape[-1] - lengths).long()


@dataclass(frozen=True)
class Graph:
    """One program to export.

    Args:
        name: By which the program is called and its file is named.
        function: From the tensors, by keyword, to outputs by name.
        inputs: The tensors it reads.
        axes: Least and greatest length of the axes that change, but "batch", which is any. A third number divides the
            length.
    """

    name: str
    function: Callable[..., dict[str, torch.Tensor]]
    inputs: dict[str, TensorSpec]
    axes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def module(self, model: nn.Module) -> "GraphModule":
        return GraphModule(model, self.function, list(self.inputs))

    def sample(self, batch_size: int, lengths: str = "low", seed: int = 0) -> dict[str, torch.Tensor]:
        """Tensors to try the graph with.

        Args:
            lengths: `"low"` is the least that the axes allow, `"high"` the greatest (but of long axes 127 more than the
                least), `"middle"` lies between.
        """
        sizes = {"batch": batch_size}
        for axis, (low, high, *step) in self.axes.items():
            step = step[0] if step else 1
            high = min(high, low + 127 * step)
            middle = (low + high + 1) // 2 // step * step
            sizes[axis] = {"low": low, "middle": middle, "high": high}[lengths]
        generator = torch.Generator().manual_seed(seed)
        return {name: spec.sample(sizes, generator) for name, spec in self.inputs.items()}


class GraphModule(nn.Module):
    """A function of a model as a module, which is what the exporters read; its inputs are named arguments."""

    def __init__(self, model: nn.Module, function: Callable[..., dict[str, torch.Tensor]], names: list[str]):
        super().__init__()
        self.model = model

        def forward(*args: torch.Tensor, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
            return function(model, **dict(zip(names, args)), **inputs)

        # torch.export takes names from the signature, and cannot compare sizes of inputs that lie in one `**inputs`
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        forward.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in names])
        self.forward = forward


# class name -> the graphs of a model of that class; names, so that no model is imported for the sake of the table
_GRAPHS: dict[str, Callable[[nn.Module], list[Graph]]] = {}


def graphs_for(*class_names: str):
    """Decorator: the function tells the graphs of models of these classes, and of those derived from them."""

    def enter(function):
        _GRAPHS.update(dict.fromkeys(class_names, function))
        return function

    return enter


def graphs_of(model: nn.Module) -> list[Graph]:
    """The graphs of a model.

    Raises:
        ValueError: for a model that none are known of.
    """
    from . import model_graphs, multimodal_graphs  # noqa: F401  they fill the table

    for kind in type(model).__mro__:
        if kind.__name__ in _GRAPHS:
            return _GRAPHS[kind.__name__](model)
    raise ValueError(
        f"{type(model).__name__} cannot be exported: expected one of {', '.join(sorted(_GRAPHS))}, or a model derived "
        "from one of them."
    )
