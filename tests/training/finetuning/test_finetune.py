"""`omnilatent finetune`: every task from files to a saved model, its options, resuming, and its errors."""

import json
import re

import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageColumn
from PIL import Image
from transformers import AutoModel, AutoProcessor, TrainingArguments

import omnilatent
from omnilatent import MultiModalForRetrieval, MultiModalProcessor
from omnilatent.configuration.multimodal_presets import load_preset
from omnilatent.training import cli
from omnilatent.training.data import VQADataset, make_sample_data
from omnilatent.training.finetuning import TASKS, TaskTrainer
from omnilatent.training.finetuning.finetune_data import open_source

CLASSES = {
    "retrieval": "MultiModalForRetrieval",
    "vqa": "MultiModalForVisualQuestionAnswering",
    "written-vqa": "MultiModalForConditionalGeneration",
    "captioning": "MultiModalForCaptioning",
    "classification": "MultiModalForClassification",
    "drawing": "MultiModalForImageGeneration",
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    make_sample_data(folder, num_train=48, num_val=12, size=24)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A preset of one narrow layer each."""
    words = json.loads(load_preset("tiny_text_image_model").to_json_string(use_diff=False))
    path = tmp_path_factory.mktemp("preset") / "small.json"
    layer = {"hidden_size": 16, "num_hidden_layers": 1, "attention": {"num_attention_heads": 2}}
    image = {**layer, "image_size": 24, "patch_size": 8}
    text = {**layer, "vocab_size": 384, "max_position_embeddings": 64}
    assert words["model_type"] == "multimodal"
    path.write_text(
        json.dumps(
            {
                "model_type": "multimodal",
                "text_config": text,
                "image_config": image,
                "fusion": layer,
                "decoder_config": text,
                "projection_dim": 16,
            }
        )
    )
    return path


@pytest.fixture
def run(sample, small, tmp_path):
    """Runs the command with usual options before those given; returns the output folder."""

    def command(task, *options, out="out", code=0):
        argv = ["finetune", "--task", task, "--train-data", sample / "train.json"]
        argv += ["--val-data", sample / "val.json", "--output-dir", tmp_path / out, "--cpu"]
        argv += ["--batch-size", 8, "--max-steps", 3, "--learning-rate", 1e-3, "--max-length", 12]
        argv += [] if "--model" in options else ["--config", small, "--tokenizer", "words"]
        argv += options
        assert cli.main([str(part) for part in argv]) == code
        return tmp_path / out

    return command


def figures_of(folder):
    return json.loads((folder / "eval_results.json").read_text())


# ---- every task


@pytest.mark.parametrize("task", CLASSES)
def test_a_task_is_trained_judged_and_saved_for_the_auto_classes(task, run, sample, capsys):
    folder = run(task)
    shown = capsys.readouterr().out
    metric = TASKS[task].metric
    assert f"eval_{metric}" in figures_of(folder) and f"{metric}: " in shown and CLASSES[task] in shown
    model = getattr(omnilatent, CLASSES[task]).from_pretrained(folder)
    assert model.config.architectures == [CLASSES[task]]
    processor = AutoProcessor.from_pretrained(folder)
    assert isinstance(processor, MultiModalProcessor)
    assert AutoModel.from_pretrained(folder).config.text_config.vocab_size == len(processor.tokenizer)
    assert processor.tokenizer.decode(processor.tokenizer("a red circle")["input_ids"]).strip()
    if TASKS[task].has_classes:
        known = VQADataset(sample / "train.json").known if task == "vqa" else None
        assert known is None or [model.config.id2label[n] for n in range(len(known))] == known


def test_options_of_the_specification_are_taken_literally(run, sample, tmp_path):
    options = ["--train_data", sample / "val.json", "--val_data", sample / "val.json", "--batch_size", "4"]
    folder = run(
        "retrieval", *options, "--num_epochs", "1", "--learning_rate", "5e-5", "--output_dir", tmp_path / "mine"
    )
    arguments = torch.load(tmp_path / "mine/training_args.bin", weights_only=False)
    assert (arguments.num_train_epochs, arguments.per_device_train_batch_size, arguments.learning_rate) == (1, 4, 5e-5)
    assert not folder.exists()


def test_every_option_of_the_specification_is_there(capsys):
    with pytest.raises(SystemExit):
        cli.main(["finetune", "--help"])
    wanted = "--config --task --train_data --val_data --output_dir --batch_size --num_epochs --learning_rate"
    assert set(wanted.split()) <= set(re.findall(r"--[a-z_-]+", capsys.readouterr().out))


def test_events_for_tensorboard_and_checkpoints_with_manifests_are_written(run):
    folder = run("vqa", "--eval-steps", "2", "--log-interval", "1")
    assert list(folder.glob("**/events.out.tfevents.*"))
    assert (folder / "checkpoint-2/manifest.json").is_file()


def test_training_goes_on_from_a_trained_model_with_its_classes(run, sample, tmp_path):
    first = run("vqa")
    lines = json.loads((sample / "train.json").read_text())[:20]
    (sample / "few.json").write_text(json.dumps(lines))
    second = run("vqa", "--model", first, "--train-data", sample / "few.json", out="second")
    models = [omnilatent.MultiModalForVisualQuestionAnswering.from_pretrained(folder) for folder in (first, second)]
    assert models[0].config.id2label == models[1].config.id2label


def test_crossing_retrieval_ranks_the_nearest_again(run, small, tmp_path):
    crossing = tmp_path / "crossing.json"
    crossing.write_text(json.dumps({**json.loads(small.read_text()), "scoring": "cross"}))
    folder = run("retrieval", "--config", crossing)
    assert 0 <= figures_of(folder)["eval_R@1"] <= 1
    assert MultiModalForRetrieval.from_pretrained(folder).matcher is not None


def test_several_answers_make_soft_targets_and_several_labels_their_own_loss(run, sample):
    records = json.loads((sample / "train.json").read_text())
    for record in records:
        record["answer"] = [record["answer"]] * 3 + ["red"]
        record["label"] = [record["label"], "drawn"]
    (sample / "several.json").write_text(json.dumps(records))
    both = ["--train-data", sample / "several.json", "--val-data", sample / "several.json"]
    assert 0 <= figures_of(run("vqa", *both))["eval_accuracy"] <= 1
    folder = run("classification", *both, out="labels")
    assert {"eval_accuracy", "eval_f1"} <= set(figures_of(folder))
    assert AutoModel.from_pretrained(folder).config.problem_type == "multi_label_classification"


# ---- data


def test_tables_of_datasets_serve_as_data_and_stream(run, sample, tmp_path):
    records = json.loads((sample / "train.json").read_text())
    table = Dataset.from_list([{"picture": str(sample / r["image"]), "title": r["caption"]} for r in records])
    table.cast_column("picture", ImageColumn()).save_to_disk(tmp_path / "table")
    options = ["--train-data", tmp_path / "table", "--val-data", tmp_path / "table"]
    options += ["--columns", "image=picture,caption=title"]
    assert "eval_bleu" in figures_of(run("captioning", *options))
    assert "eval_bleu" in figures_of(
        run("captioning", *options, "--streaming", "--tokenizer", "bytes", out="streamed")
    )


def test_a_dataset_needs_its_split():
    with pytest.raises(ValueError, match="name its split as well"):
        open_source("flickr30k")


def test_rare_answers_are_left_out_and_count_as_wrong(run, caplog):
    folder = run("vqa", "--num-classes", "3")
    assert len(omnilatent.MultiModalForVisualQuestionAnswering.from_pretrained(folder).config.id2label) == 3
    assert "unknown answer" in caplog.text and "it is none of the 3 known" in caplog.text
    assert figures_of(folder)["eval_accuracy"] < 0.7  # of 12 questions 3 have such an answer


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--columns", "image=picture"], "--columns image=..."),
        (["--train-data", "nowhere.json"], "nowhere.json"),
        (["--config", "huge_model"], "no preset of that name"),
        (["--resume", "nowhere"], "There is no checkpoint at nowhere"),
    ],
)
def test_mistakes_are_told_in_a_line(options, told, run, capsys):
    run("captioning", *options, code=1)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("omnilatent finetune: error: ") and told in error


def test_every_bad_sample_is_named_in_the_log_of_the_run(run, sample):
    records = [{**record, "image": "pictures/none.png"} for record in json.loads((sample / "val.json").read_text())]
    good = json.loads((sample / "train.json").read_text())
    (sample / "bad.json").write_text(json.dumps([*records, *good]))
    folder = run("captioning", "--train-data", sample / "bad.json")
    assert (folder / "log.txt").read_text().count(" Left out ") == len(records) + 1  # and one for all of them
    # more than the console shows
    assert len(records) > 5


def test_single_label_is_nothing_to_tell_apart(run, sample, capsys):
    records = [{**record, "label": "same"} for record in json.loads((sample / "train.json").read_text())]
    (sample / "same.json").write_text(json.dumps(records))
    run("classification", "--train-data", sample / "same.json", code=1)
    assert "There are no two labels to tell apart in" in capsys.readouterr().err


def test_line_that_is_printed_loads_model_and_processor(run, capsys):
    run("retrieval")
    line = capsys.readouterr().out.split("use it by: ")[1].splitlines()[0]
    found = {}
    exec(line, found)
    assert type(found["model"]).__name__ == "MultiModalForRetrieval"
    assert isinstance(found["processor"], MultiModalProcessor)


@pytest.mark.parametrize("options", [["--task", "smell"], ["--columns", "image"], []])
def test_impossible_options_leave_with_2(options, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["finetune", "--train-data", "a", "--val-data", "b", *options])
    assert stopped.value.code == 2


# ---- the course of a run


def trainer_of(folder, sample, small, **settings):
    torch.manual_seed(0)
    model = omnilatent.create_model(small, task="retrieval")
    task = TASKS["retrieval"](MultiModalProcessor.from_config(model.config))
    arguments = {
        "max_steps": 8,
        "per_device_train_batch_size": 8,
        "save_steps": 3,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "learning_rate": 1e-3,
    }
    args = TrainingArguments(str(folder), remove_unused_columns=False, **arguments | settings)
    data = {split: task.dataset_class(sample / f"{split}.json") for split in ("train", "val")}
    return TaskTrainer(model, args, task, train_dataset=data["train"], eval_dataset=data["val"])


def test_resuming_gives_the_very_same_weights(tmp_path, sample, small):
    whole = trainer_of(tmp_path, sample, small)
    whole.train()
    resumed = trainer_of(tmp_path, sample, small)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    for name, values in whole.model.state_dict().items():
        assert torch.equal(values, resumed.model.state_dict()[name]), name


def test_the_best_checkpoint_becomes_the_model(tmp_path, sample, small):
    settings = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "load_best_model_at_end": True}
    trainer = trainer_of(tmp_path, sample, small, metric_for_best_model="eval_R@1", greater_is_better=True, **settings)
    trainer.train()
    measured = [entry["eval_R@1"] for entry in trainer.state.log_history if "eval_R@1" in entry]
    assert len(measured) == 4 and trainer.state.best_metric == max(measured)
    assert trainer.evaluate()["eval_R@1"] == max(measured)


def test_early_stopping_ends_a_run_that_no_longer_gains(run):
    # a rate this small changes nothing, so that the first evaluation stays the best
    folder = run(
        "classification", "--learning-rate", "1e-12", "--max-steps", "9", "--eval-steps", "1", "--patience", "2"
    )
    steps = sorted(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))
    assert steps[-1] == 3


def test_evaluation_in_batches_equals_evaluation_at_once(tmp_path, sample, small):
    figures = [trainer_of(tmp_path, sample, small, per_device_eval_batch_size=size).evaluate() for size in (5, 12)]
    for name in ("eval_R@1", "eval_text_to_image_R@5"):
        assert figures[0][name] == figures[1][name]


def test_columns_must_be_kept(tmp_path, sample, small):
    with pytest.raises(ValueError, match="remove_unused_columns=False"):
        TaskTrainer(torch.nn.Linear(1, 1), TrainingArguments(str(tmp_path), report_to="none"), None)


def test_pictures_that_match_are_learned(tmp_path, small):
    """A few steps on four colours: retrieval finds the right one, and with pictures exchanged it does not."""
    colours = ["red", "green", "blue", "white"]
    records = [{"image": Image.new("RGB", (24, 24), colour), "caption": colour} for colour in colours * 4]
    trainer = trainer_of(tmp_path, tmp_path_sample(tmp_path, records), small, max_steps=80, learning_rate=3e-3)
    trainer.train()
    assert trainer.evaluate()["eval_R@1"] == 1.0
    exchanged = [{**r, "caption": colours[(colours.index(r["caption"]) + 1) % 4]} for r in records]
    assert trainer.evaluate(trainer.task.dataset_class(exchanged))["eval_R@1"] < 0.3


def tmp_path_sample(folder, records):
    """The records as files, to learn and to be judged by."""
    lines = []
    for number, record in enumerate(records):
        record["image"].save(folder / f"{number}.png")
        lines.append({"image": f"{number}.png", "caption": record["caption"]})
    for split in ("train", "val"):
        (folder / f"{split}.json").write_text(json.dumps(lines))
    return folder
