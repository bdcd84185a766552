"""A model to be asked: a saved one in PyTorch, or an exported one under onnxruntime or torch.export."""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedConfig

from .exporting import MANIFEST
from .graphs import graphs_of
from .loading import load_model, load_processor
from .multimodal_graphs import score_constants
from .programs import Program, check_lengths, open_program

TEXT = {"input_ids", "attention_mask"}  # of the beginning of a caption, which its encoder does not read


@dataclass
class ServedModel:
    """
    Args:
        model_class: Its name.
        config: The model's.
        processor: What prepares its inputs.
        programs: By the graph's name: from tensors by keyword to tensors by name.
        inputs: Names of all tensors that they read.
        constants: Numbers that scores are made with, see `score_constants`.
        generate: From what the encoders read, and `max_new_tokens`, to ids (B, T) of text; `None`: it writes none.
    """

    model_class: str
    config: PreTrainedConfig
    processor: Callable
    programs: dict[str, Program]
    inputs: set[str]
    constants: dict[str, float] = field(default_factory=dict)
    generate: Callable[..., torch.Tensor] | None = None

    def read(self, **given) -> dict[str, torch.Tensor]:
        """Tensors of `text` and `images`. What a processor makes beside them (BERT's `token_type_ids`) is left out."""
        words = {"padding": True} if "text" in given else {}
        made = self.processor(**given, **words, return_tensors="pt")
        return {name: values for name, values in made.items() if name in self.inputs}


def open_served_model(name_or_path: str | Path) -> ServedModel:
    """The model in a folder: one that `save_pretrained` wrote, or `export_model`.

    Raises:
        ValueError: for a model without a processor, and one that has no graphs.
    """
    processor = load_processor(name_or_path)
    if processor is None:
        raise ValueError(f"There is no processor in {name_or_path}: save it beside the model by `save_pretrained`.")
    manifest = Path(name_or_path) / MANIFEST
    if manifest.is_file():
        return _open_export(manifest, processor)
    model = load_model(name_or_path)
    graphs = graphs_of(model)
    programs = {graph.name: functools.partial(graph.function, model) for graph in graphs}
    generate = model.generate if "decoder" in programs else None
    inputs = TEXT.union(*(graph.inputs for graph in graphs))
    return ServedModel(
        type(model).__name__, model.config, processor, programs, inputs, score_constants(model), generate
    )


def _open_export(manifest, processor):
    folder, told = manifest.parent, json.loads(manifest.read_text())
    programs = {
        name: check_lengths(open_program(folder / graph["file"], graph["outputs"]), graph)
        for name, graph in told["graphs"].items()
    }
    config = AutoConfig.from_pretrained(folder)
    generate = None
    if "decoder" in programs:
        continues = told["model_class"] == "MultiModalForCaptioning"
        generate = functools.partial(write_greedily, programs, config, continues)
    inputs = TEXT.union(*(graph["inputs"] for graph in told["graphs"].values()))
    return ServedModel(told["model_class"], config, processor, programs, inputs, told["constants"], generate)


def write_greedily(
    programs: dict[str, Program], config, continues: bool, max_new_tokens: int, **inputs: torch.Tensor
) -> torch.Tensor:
    """Ids (B, T) of text, the begin token among them, that the graphs "encoder" and "decoder" write.

    Args:
        continues: Whether `input_ids` is the beginning of what is written, and no input of the encoder.
        inputs: What the encoder reads.
    """
    decoder = config.decoder_config
    batch = len(next(iter(inputs.values())))
    ids = torch.full((batch, 1), decoder.bos_token_id)
    if continues:
        inputs.pop("attention_mask", None)
        ids = torch.cat([ids, inputs.pop("input_ids", ids[:, :0])], dim=1)
    encoded = programs["encoder"](**inputs)
    ended = torch.zeros(batch, dtype=torch.bool)
    for _ in range(max_new_tokens):
        step = programs["decoder"](decoder_input_ids=ids, **encoded)["logits"].argmax(-1)
        ids = torch.cat([ids, step.masked_fill(ended, decoder.pad_token_id)[:, None]], dim=1)
        ended |= step == decoder.eos_token_id
        if ended.all():
            break
    return ids
