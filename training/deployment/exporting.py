"""Models as programs: by torch.export and as ONNX, tried against the model they come from."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from .graphs import Graph, graphs_of
from .multimodal_graphs import score_constants
from .parity import TOLERANCE, check_parity
from .programs import FORMATS, open_program, write_program
from .quantization import quantize_onnx, relative_deviation

MANIFEST = "export.json"


@dataclass
class ExportedGraph:
    """What the manifest says of one graph.

    Args:
        file: In the export's folder.
        inputs: dtype and shape of each tensor; an axis with a name may have any length that `axes` allows.
        outputs: Their names, in the program's order.
        parity: Greatest absolute difference between the program's outputs and the model's.
        quantized: The program in int8, if there is one: its file, the bytes of both files, and the greatest deviation
            of its outputs on random inputs, as a share of the greatest value.
    """

    file: str
    inputs: dict[str, dict]
    axes: dict[str, list[int | None]]
    outputs: list[str]
    parity: float
    quantized: dict | None = None


def export_model(
    model: PreTrainedModel,
    folder: str | Path,
    processor=None,
    format: str = "onnx",
    quantize: str | None = None,
    tolerance: float = TOLERANCE,
) -> dict[str, ExportedGraph]:
    r"""
    Write a model as programs that run without its code, and check that they compute what it computes.

    The batch is of any size, texts are of any length the model reads, pictures have the size of its config. Beside the
    programs lie the config, the processor and `export.json`, which tells inputs, outputs and the parity.

    Args:
        model: In float32; on any device, it is exported for the CPU.
        folder: To write to; made if need be.
        processor: What makes the model's inputs, saved beside the programs.
        format: `"onnx"`, or `"torch"` for torch.export's `.pt2`.
        quantize: `"int8"` writes each ONNX program in int8 as well (dynamic quantisation). A model in PyTorch is
            quantised by `quantize_model`.
        tolerance: Greatest absolute difference between program and model that is let through.

    Returns:
        What `export.json` says of each graph.

    Raises:
        ValueError: for a model that has no graphs, another dtype, an unknown format, and outputs that differ.

    Example:

    ```python
    >>> from omnilatent import RelPosViTConfig, RelPosViTForImageClassification
    >>> from omnilatent.training.deployment import export_model

    >>> model = RelPosViTForImageClassification(RelPosViTConfig.tiny(num_labels=5))
    >>> graphs = export_model(model, "exported", format="torch")
    >>> graphs["model"].outputs, graphs["model"].parity < 1e-4
    (['logits'], True)
    ```
    """
    if format not in FORMATS:
        raise ValueError(f"`format` must be one of {', '.join(FORMATS)}, got {format!r}.")
    if quantize not in (None, "int8") or (quantize and format != "onnx"):
        raise ValueError(
            f"`quantize` must be 'int8' and goes with `format` 'onnx', got {quantize!r} and {format!r}. For a model in "
            "PyTorch there is `quantize_model`."
        )
    if model.dtype != torch.float32:
        raise ValueError(f"A model is exported in float32, this one is in {model.dtype}: call `model.float()` first.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    was_training, device = model.training, model.device
    model.eval().cpu()
    try:
        exported = {
            graph.name: _export_graph(model, graph, folder, format, quantize, tolerance) for graph in graphs_of(model)
        }
    finally:
        model.train(was_training).to(device)
    model.config.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    write_manifest(folder, model, format, exported, tolerance)
    return exported


def _export_graph(model, graph: Graph, folder, format, quantize, tolerance) -> ExportedGraph:
    module = graph.module(model)
    file, outputs = write_program(module, graph, folder, format)
    parity = check_parity(module, graph, folder / file, outputs, tolerance)
    return ExportedGraph(
        file=file,
        inputs={
            name: {"dtype": str(spec.dtype).removeprefix("torch."), "shape": list(spec.shape)}
            for name, spec in graph.inputs.items()
        },
        axes={"batch": [1, None]} | {axis: list(ends) for axis, ends in graph.axes.items()},
        outputs=outputs,
        parity=parity,
        quantized=None if quantize is None else _quantize_graph(module, graph, folder / file, outputs),
    )


@torch.no_grad()
def _quantize_graph(module, graph, path, outputs):
    quantized = quantize_onnx(path)
    sample = graph.sample(batch_size=8, lengths="middle")
    given, expected = open_program(quantized, outputs)(**sample), module(**sample)
    return {
        "file": quantized.name,
        "bytes": quantized.stat().st_size,
        "float_bytes": path.stat().st_size,
        "deviation": max(relative_deviation(given[name], expected[name]) for name in outputs),
    }


def write_manifest(folder: Path, model, format: str, graphs: dict[str, ExportedGraph], tolerance: float):
    manifest = {
        "model_class": type(model).__name__,
        "format": format,
        "tolerance": tolerance,
        "torch": torch.__version__,
        "constants": score_constants(model),
        "graphs": {name: asdict(graph) for name, graph in graphs.items()},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
