"""Graphs as files: written by torch.export, and from there as ONNX; opened again to be called by keyword."""

import contextlib
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch.export import Dim

from .graphs import Graph, GraphModule

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
FORMATS = tuple(SUFFIXES)

Program = Callable[..., dict[str, torch.Tensor]]


def write_program(module: GraphModule, graph: Graph, folder: Path, format: str) -> tuple[str, list[str]]:
    """
    Write one graph.

    Returns:
        The file's name, and the names of the outputs in the program's order.

    Raises:
        ValueError: for a model that cannot be traced, with what stood in the way.
    """
    sample = graph.sample(batch_size=2, lengths="middle")
    with torch.no_grad(), _quiet():
        outputs = list(module(**sample))
        try:
            program = torch.export.export(module, (), kwargs=sample, dynamic_shapes=_dimensions(graph))
            path = folder / f"{graph.name}{SUFFIXES[format]}"
            if format == "torch":
                torch.export.save(program, path)
            else:
                _write_onnx(program, graph, outputs, path)
        except (RuntimeError, ValueError, NotImplementedError) as error:  # torch's own errors are RuntimeErrors
            reason = " ".join(str(error).split())[:600]
            raise ValueError(
                f"`{graph.name}` of {type(module.model).__name__} cannot be exported: {reason}"
            ) from error
    return path.name, outputs


def open_program(path: Path, outputs: list[str]) -> Program:
    """The program in a file, to be called with tensors by keyword; it gives tensors by name."""
    if path.suffix == SUFFIXES["torch"]:
        return torch.export.load(path).module()
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(**inputs):
        arrays = session.run(outputs, {name: tensor.numpy() for name, tensor in inputs.items()})
        return {name: torch.from_numpy(array) for name, array in zip(outputs, arrays)}

    return run


def check_lengths(program: Program, graph: dict) -> Program:
    """The program, that refuses lengths it was not exported for: beyond them it fails or computes nonsense.

    Args:
        graph: What the manifest says of it.
    """

    def run(**inputs):
        for name, tensor in inputs.items():
            for axis, length in zip(graph["inputs"][name]["shape"], tensor.shape):
                if not isinstance(axis, str):
                    continue
                low, high, *step = graph["axes"][axis]
                if length < low or (high is not None and length > high) or (step and length % step[0]):
                    expected = f"at least {low}" if high is None else f"{low} to {high}"
                    steps = f" in steps of {step[0]}" if step else ""
                    raise ValueError(f"The `{axis}` of `{name}` is {length}, expected {expected}{steps}.")
        return program(**inputs)

    return run


def _write_onnx(program, graph, outputs, path):
    try:
        import onnxscript  # noqa: F401  torch's exporter needs it
    except ImportError as error:
        raise ValueError("ONNX needs onnxscript and onnxruntime: pip install 'omnilatent[export]'") from error
    torch.onnx.export(
        program,
        f=path,
        input_names=list(graph.inputs),
        output_names=outputs,
        dynamic_shapes={name: _named_axes(spec) for name, spec in graph.inputs.items()},
        external_data=False,  # one file: the weights of these models stay below protobuf's 2 GB
        verbose=False,
    )


def _named_axes(spec):
    return {place: axis for place, axis in enumerate(spec.shape) if isinstance(axis, str)}


def _dimensions(graph):
    """torch.export's dimension of each axis that changes."""
    dimensions = {"batch": Dim("batch")}
    for axis, (low, high, *step) in graph.axes.items():
        if step:
            dimensions[axis] = step[0] * Dim(f"{axis}_by_{step[0]}", min=low // step[0], max=high // step[0])
        else:
            dimensions[axis] = Dim(axis, min=low, max=high)
    return {
        name: {place: dimensions[axis] for place, axis in _named_axes(spec).items()}
        for name, spec in graph.inputs.items()
    }


@contextlib.contextmanager
def _quiet():
    """Without the exporters' notes to their own developers."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
