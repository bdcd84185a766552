"""Two processes fine-tune one model: the loss and weights of one, judged on every sample once."""

import json
from pathlib import Path

import pytest
import torch
from accelerate import debug_launcher
from accelerate.state import AcceleratorState
from datasets import Dataset
from PIL import Image
from transformers import TrainingArguments

from omnilatent import (
    MultiModalConfig,
    MultiModalProcessor,
    RelPosViTConfig,
    RelPosViTForImageClassification,
    create_model,
)
from omnilatent.training import cli
from omnilatent.training.data import make_sample_data
from omnilatent.training.finetuning import (
    TASKS,
    ImageClassificationTrainer,
    ImageCollator,
    ImageTable,
    LabelledImageStream,
    TaskTrainer,
)

SAMPLES = 8  # of a step, over all processes


def train(folder, data, task_name, processes):
    torch.set_num_threads(1)
    layer = {"hidden_size": 16, "num_hidden_layers": 1, "attention": {"num_attention_heads": 2}}
    task_class = TASKS[task_name]
    samples = task_class.dataset_class(data / "train.json")
    words = (
        {"id2label": dict(enumerate(samples.known)), "label2id": {n: i for i, n in enumerate(samples.known)}}
        if (task_class.has_classes)
        else {}
    )
    torch.manual_seed(0)
    config = MultiModalConfig(
        text_config={**layer, "vocab_size": 384},
        image_config={**layer, "image_size": 24, "patch_size": 8},
        fusion=layer,
        projection_dim=16,
        **words,
    )
    model = create_model(config, task=task_class.model_task)
    known = {"known": samples.known} if words else {}
    task = task_class(MultiModalProcessor.from_config(config), **known)
    args = TrainingArguments(
        str(folder),
        max_steps=4,
        per_device_train_batch_size=SAMPLES // processes,
        per_device_eval_batch_size=4,
        logging_steps=1,
        learning_rate=1e-3,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    judged = task_class.dataset_class(data / "val.json", unknown="keep", **known)
    trainer = TaskTrainer(model, args, task, train_dataset=samples, eval_dataset=judged)
    trainer.train()
    scores = trainer.predict(judged)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    result = {"weights": model.state_dict(), "metrics": scores.metrics, "losses": losses, "n": len(scores.predictions)}
    torch.save(result, Path(folder, f"rank{args.process_index}.pt"))


def in_process(*arguments):
    AcceleratorState._reset_state(reset_partial_state=True)  # forked from a process that was alone
    train(*arguments, processes=2)


@pytest.mark.parametrize("task", ["retrieval", "vqa"])
def test_two_processes_train_and_judge_as_one(task, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    make_sample_data(tmp_path, num_train=40, num_val=11, size=24)
    debug_launcher(in_process, (tmp_path, tmp_path, task))
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    AcceleratorState._reset_state(reset_partial_state=True)
    train(tmp_path, tmp_path, task, processes=1)
    alone = torch.load(tmp_path / "rank0.pt")
    assert first["n"] == second["n"] == alone["n"] == 11
    metric = f"test_{TASKS[task].metric}"
    assert first["metrics"][metric] == second["metrics"][metric]
    torch.testing.assert_close(torch.tensor(first["losses"]), torch.tensor(alone["losses"]), rtol=1e-4, atol=1e-4)
    for name, values in alone["weights"].items():
        assert torch.equal(first["weights"][name], second["weights"][name]), name
        torch.testing.assert_close(first["weights"][name], values, rtol=1e-3, atol=1e-4, msg=name)


def judging_arguments(folder, **words):
    return TrainingArguments(
        str(folder),
        per_device_eval_batch_size=3,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
        accelerator_config={"dispatch_batches": False},
        **words,
    )


def judge_stream(folder):
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(1)
    task = TASKS["captioning"](None)
    task.collator = lambda training: lambda samples: {"captions": [sample["captions"][0] for sample in samples]}
    task.score = lambda model, inputs: [{"text": text, "loss": 0.0} for text in inputs["captions"]]
    task.figures = lambda model, rows: {"samples": len(rows)}
    args = judging_arguments(folder)
    picture = (folder / "one.png").read_bytes()
    table = Dataset.from_list([{"image": picture, "caption": f"caption {number}"} for number in range(8)])
    stream = task.dataset_class.stream(table.to_iterable_dataset())
    trainer = TaskTrainer(torch.nn.Linear(1, 1), args, task, eval_dataset=stream, processing_class=None)
    scores = [trainer.predict(data).predictions for data in (stream, trainer.eval_dataset)]
    assert trainer.evaluate()["eval_samples"] == 8
    (folder / f"rank{args.process_index}.json").write_text(json.dumps([[row["text"] for row in s] for s in scores]))


def test_two_processes_judge_each_sample_of_a_stream_once(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    Image.new("RGB", (4, 4)).save(tmp_path / "one.png")
    debug_launcher(judge_stream, (tmp_path,))
    for rank in range(2):
        for texts in json.loads((tmp_path / f"rank{rank}.json").read_text()):
            assert texts == [f"caption {number}" for number in range(8)]
    AcceleratorState._reset_state(reset_partial_state=True)


def classify_stream(folder):
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(1)
    picture = {"bytes": (folder / "one.png").read_bytes(), "path": None}
    rows = Dataset.from_list([{"image": picture, "label": number} for number in range(8)]).to_iterable_dataset()
    table = ImageTable(rows, "drawn", "image", "label", [str(number) for number in range(8)])
    args = judging_arguments(folder, label_names=["labels"])
    trainer = ImageClassificationTrainer(
        model=RelPosViTForImageClassification(RelPosViTConfig.tiny(num_labels=8)),
        args=args,
        eval_dataset=LabelledImageStream(table, lambda picture: torch.zeros(3, 32, 32)),
        data_collator=ImageCollator(8),
    )
    labels = [trainer.predict(trainer.eval_dataset).label_ids.tolist() for _ in range(2)]
    assert trainer.evaluate()["eval_accuracy"] == 1 / 8  # all look alike
    (folder / f"rank{args.process_index}.json").write_text(json.dumps(labels))


def test_two_processes_judge_each_image_of_a_stream_once(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    Image.new("RGB", (4, 4)).save(tmp_path / "one.png")
    debug_launcher(classify_stream, (tmp_path,))
    for rank in range(2):
        assert json.loads((tmp_path / f"rank{rank}.json").read_text()) == [list(range(8))] * 2
    AcceleratorState._reset_state(reset_partial_state=True)


def stream_in_process(folder):
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(1)
    options = ["--task", "vqa", "--train-data", folder / "table", "--val-data", folder / "table", "--streaming"]
    options += ["--classes", folder / "classes.txt", "--output-dir", folder / "out", "--max-steps", 2, "--cpu"]
    assert cli.main(["finetune", *(str(part) for part in [*options, "--batch-size", 2, "--eval-steps", 2])]) == 0


def test_two_processes_read_a_stream(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    make_sample_data(tmp_path, num_train=8, num_val=2, size=24)
    records = json.loads((tmp_path / "train.json").read_text())
    rows = [{"image": (tmp_path / r["image"]).read_bytes(), "question": "q?", "answer": "red"} for r in records]
    Dataset.from_list(rows).save_to_disk(tmp_path / "table")
    (tmp_path / "classes.txt").write_text("red\nblue\n")
    debug_launcher(stream_in_process, (tmp_path,))
    assert 0 <= json.loads((tmp_path / "out/eval_results.json").read_text())["eval_accuracy"] <= 1
    AcceleratorState._reset_state(reset_partial_state=True)
