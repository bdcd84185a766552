"""What int8 costs a model that has learned something: accuracy, size and time of each kind.

`python tests/benchmarks/bench_quantization.py` draws sample data, fine-tunes the preset `tiny_sample_model` on its questions
and measures the held-out accuracy of float32, torchao's int8 and int8 weights, and ONNX in float32 and int8 under
onnxruntime. A few minutes on two cores.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from omnilatent.training import cli
from omnilatent.training.deployment import export_model, model_bytes, quantize_model
from omnilatent.training.deployment.programs import open_program
from omnilatent.training.deployment.quantization import QUANTIZATIONS


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600, help="optimiser steps of the fine-tuning")
    parser.add_argument("--pictures", type=int, default=2000, help="to learn from")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), args.steps, args.pictures)
    for row in rows:
        print(json.dumps(row))


def measure(folder: Path, steps: int, pictures: int) -> list[dict]:
    """One row for each kind: accuracy on held-out questions, megabytes, milliseconds of a batch."""
    from omnilatent.training.finetuning.finetune_runs import finetune

    data = folder / "data"
    cli.main(["sample-data", "--out", str(data), "--train", str(pictures)])
    argv = ["finetune", "--task", "vqa", "--config", "tiny_sample_model", "--output-dir", str(folder / "run")]
    argv += ["--tokenizer", "words", "--learning-rate", "2e-3"]
    argv += ["--train-data", str(data / "train.json"), "--val-data", str(data / "val.json")]
    trainer = finetune(cli.make_parser().parse_args([*argv, "--max-steps", str(steps)]))
    model = trainer.model.eval().cpu()
    batches = [
        {name: values.cpu() for name, values in batch.items() if isinstance(values, torch.Tensor)}
        for batch in trainer.get_eval_dataloader()
    ]
    graph = export_model(model, folder / "exported", quantize="int8")["model"]
    kinds = {"float32": (model, model_bytes(model))}
    for method in QUANTIZATIONS:
        quantized = quantize_model(model, method)
        kinds[f"torchao {method}"] = quantized, model_bytes(quantized)
    for title, file in {"ONNX float32": graph.file, "ONNX int8": graph.quantized["file"]}.items():
        path = folder / "exported" / file
        kinds[title] = open_program(path, graph.outputs), path.stat().st_size
    return [
        {"kind": title, **judge(run, batches, list(graph.inputs)), "MB": round(size / 1e6, 2)}
        for title, (run, size) in kinds.items()
    ]


@torch.inference_mode()
def judge(run, batches, names) -> dict[str, float]:
    right = total = 0
    begin = time.perf_counter()
    for batch in batches:
        logits = run(**{name: batch[name] for name in names})["logits"]
        labels = batch["labels"]
        labels = labels.argmax(-1) if labels.is_floating_point() else labels
        right += (logits.argmax(-1) == labels).sum().item()
        total += len(labels)
    return {
        "accuracy": round(right / total, 4),
        "questions": total,
        "ms per batch": round(1000 * (time.perf_counter() - begin) / len(batches), 1),
    }


if __name__ == "__main__":
    main()
