"""`omnilatent classify`: whole small runs."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset, Features, Value
from datasets import Image as ImageColumn
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import AutoModelForImageClassification, BeitConfig, BeitForImageClassification, BertConfig, pipeline

from omnilatent import RelPosViTConfig, RelPosViTForImageClassification, convert_beit
from omnilatent.training import cli

SMALL = ["--dim", 24, "--layers", 2, "--heads", 2, "--patch-size", 8, "--image-size", 32, "--cpu", "--workers", 0]
BROKEN = ("train/circle/3.png", "train/square/5.png", "val/square/6.png")
LORA = LoraConfig(target_modules=["q_proj"], modules_to_save=["classifier"])
PLAIN = ["--min-crop", 1, "--randaugment", 0, "--drop-path", 0]


@pytest.fixture
def run(tmp_path, image_folder, capfd):
    """A maker of runs: exit code, standard output and standard error of `omnilatent classify` on the small folder."""

    def classify(*argv, save_dir="run"):
        argv = ["classify", "--data-dir", image_folder, "--save-dir", tmp_path / save_dir, "--log-interval", 1, *argv]
        return (cli.main([str(part) for part in argv]), *capfd.readouterr())

    return classify


def steps_of(folder):
    state = json.loads((sorted(Path(folder).glob("checkpoint-*"), key=_number)[-1] / "trainer_state.json").read_text())
    return state, [line["step"] for line in state["log_history"] if "loss" in line]


def _number(path):
    return int(path.name.split("-")[1])


def weights_of(folder):
    return AutoModelForImageClassification.from_pretrained(folder).state_dict()


def test_classifier_learns_and_its_pipeline_is_as_good_as_it_says(run, tmp_path, image_folder, caplog):
    code, out, err = run(*SMALL, *PLAIN, "--batch-size", 11, "--epochs", 8, "--lr", 3e-3)
    assert code == 0, err
    assert all(f"Left out {image_folder / name}" in caplog.text for name in BROKEN)
    assert "3 images could not be read and were left out; log.txt names them." in out
    log = (tmp_path / "run" / "log.txt").read_text()
    assert all(f"Left out {image_folder / name}, row" in log for name in BROKEN)
    judged = json.loads((tmp_path / "run" / "eval_results.json").read_text())
    assert judged["eval_accuracy"] > 0.8
    assert f"accuracy {judged['eval_accuracy']:.1%}" in out
    state, _ = steps_of(tmp_path / "run")
    assert judged["eval_accuracy"] == state["best_metric"]
    found = {}
    exec(out.split("use it by: ")[1].splitlines()[0], found)
    assert "omnilatent" in found  # without it, a new process does not know the model
    classifier = found["classify"]
    paths = [path for path in sorted((image_folder / "val").rglob("*.png")) if path.stat().st_size]
    found = [one[0]["label"] == path.parent.name for one, path in zip(classifier(list(map(str, paths))), paths)]
    assert sum(found) / len(found) == pytest.approx(judged["eval_accuracy"])
    assert list((tmp_path / "run" / "runs").rglob("events.out.tfevents*"))


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_run_equals_the_whole_one(run, tmp_path, workers, caplog):
    options = [*SMALL, "--batch-size", 9, "--epochs", 2, "--mixup", 0.3, "--cutmix", 1, "--save-interval", 4]
    options[options.index("--workers") + 1] = workers
    caplog.set_level("INFO")
    assert run(*options)[0] == 0
    whole = weights_of(tmp_path / "run" / "checkpoint-12")
    (tmp_path / "run" / "checkpoint-12" / "optimizer.pt").write_bytes(b"")  # an interrupted save
    code, *_ = run(*options, "--resume", "auto")
    assert code == 0 and "optimizer.pt has 0 bytes" in caplog.text
    assert f"Resuming from {tmp_path / 'run' / 'checkpoint-8'}" in caplog.text
    resumed = weights_of(tmp_path / "run" / "checkpoint-12")
    for name, values in whole.items():
        torch.testing.assert_close(resumed[name], values, rtol=0, atol=0, msg=name)


def test_stream_is_learned_from_and_resumed(run, tmp_path):
    options = [*SMALL, "--streaming", "--batch-size", 9, "--save-interval", 4, "--shuffle-buffer", 16, "--seed", 3]
    assert run(*options, "--total-steps", 8)[0] == 0  # more than one round
    whole = weights_of(tmp_path / "run" / "checkpoint-8")
    _, out, err = run(*options, "--total-steps", 8, "--resume", tmp_path / "run" / "checkpoint-4")
    assert "3 images could not be read" in out
    for name, values in weights_of(tmp_path / "run" / "checkpoint-8").items():
        torch.testing.assert_close(values, whole[name], rtol=0, atol=0, msg=name)
    assert steps_of(tmp_path / "run")[1] == list(range(1, 9))


def test_converted_model_goes_on_with_new_labels_at_another_size(run, tmp_path):
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    beit = BeitForImageClassification(
        BeitConfig(**sizes, image_size=32, patch_size=8, num_labels=5, use_relative_position_bias=True)
    )
    convert_beit(beit).save_pretrained(tmp_path / "beit")
    options = ["--model", tmp_path / "beit", "--image-size", 48, "--total-steps", 3, "--cpu", "--workers", 0]
    code, _, err = run(*options, "--batch-size", 5)
    assert code == 0, err
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "run")
    assert model.config.image_size == 48 and model.config.id2label == {0: "circle", 1: "square"}
    kept = weights_of(tmp_path / "beit")["relpos_vit.layers.0.attention.q_proj.weight"]
    now = model.state_dict()["relpos_vit.layers.0.attention.q_proj.weight"]
    assert 0 < (now - kept).abs().max() < 0.01
    answer = pipeline("image-classification", str(tmp_path / "run"))(Image.new("RGB", (20, 20)))
    assert {one["label"] for one in answer} == {"circle", "square"}


def test_model_is_pushed_with_its_processor(run, monkeypatch):
    pushed = []
    monkeypatch.setattr("omnilatent.training.hub_upload.create_repo", lambda repo, exist_ok: pushed.append(repo))
    for base in ("transformers.PreTrainedModel", "transformers.image_processing_base.ImageProcessingMixin"):
        monkeypatch.setattr(f"{base}.push_to_hub", lambda self, repo: pushed.append((type(self).__name__, repo)))
    code, _, err = run(*SMALL, "--batch-size", 20, "--total-steps", 1, "--push-to-hub", "me/shapes")
    assert code == 0, err
    made, *parts = pushed
    assert made == "me/shapes"
    assert parts == [("RelPosViTForImageClassification", "me/shapes"), ("ViTImageProcessor", "me/shapes")]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--streaming"], "--total-steps"),
        (["--patch-size", 7], "(32, 32) cannot be cut into patches of (7, 7)"),
        (["--heads", 5], "5"),
        (["--label-column", "kind"], "--label-column"),
        (["--resume", "nowhere"], "nowhere"),
        (["--max-bad-fraction", 0.0, "--batch-size", 40, "--epochs", 4], "max_bad_fraction=0.0"),
        (["--max-bad-fraction", 0.0, "--batch-size", 5, "--epochs", 1], "max_bad_fraction=0.0"),  # of 46 images
        (["--labels", "cat", "dog"], "train are circle, square, not cat, dog"),
        (["--data-dir", "nowhere"], "There is no folder 'nowhere'."),
        (["--data", "./nowhere"], "There is no folder './nowhere'."),
    ],
)
def test_mistakes_are_told_in_one_line(run, options, told):
    code, _, err = run(*SMALL, *options)
    assert code == 1
    assert err.splitlines()[-1].startswith("omnilatent classify: error: ") and told in err.splitlines()[-1]


def test_nothing_to_read_is_not_the_present_folder(tmp_path, monkeypatch, capfd):
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["classify"]) == 1
    assert "name a folder by --data-dir, or --data-files" in capfd.readouterr().err


@pytest.mark.parametrize("streaming", [[], ["--streaming", "--total-steps", 1]])
@pytest.mark.parametrize("place", [".", "cat"])
def test_images_without_class_folders_are_told_how_they_should_lie(run, tmp_path, place, streaming):
    folder = tmp_path / "flat" / place
    folder.mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (8, 8)).save(folder / f"{number}.png")
    code, _, err = run(*SMALL, *streaming, "--data-dir", tmp_path / "flat")
    assert code == 1
    assert "there are no class folders, or only one" in err and "metadata.csv" in err
    assert not (tmp_path / "run").exists()


def test_finished_run_that_is_resumed_stays_as_it_is(run, tmp_path):
    options = [*SMALL, "--batch-size", 9, "--total-steps", 3]
    assert run(*options)[0] == 0
    whole = weights_of(tmp_path / "run")
    code, _, err = run(*options, "--resume", "auto")
    assert code == 0, err
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-3"]
    for name, values in weights_of(tmp_path / "run").items():
        torch.testing.assert_close(values, whole[name], rtol=0, atol=0, msg=name)


def test_model_of_another_kind_is_no_classifier(run, tmp_path):
    BertConfig(architectures=["BertModel"]).save_pretrained(tmp_path / "bert")
    code, _, err = run("--model", tmp_path / "bert", "--cpu")
    assert code == 1
    assert err.splitlines()[-1].endswith("bert is no classifier of images: it holds BertModel.")


def test_sizes_are_refused_beside_a_saved_model(run):
    sizes = [*SMALL[:8], "--preset", "tiny", "--drop-path", 0, "--position-embedding", "both"]
    code, _, err = run("--model", "anything", *sizes)
    assert code == 1
    names = "--preset, --dim, --layers, --heads, --patch-size, --position-embedding, --drop-path"
    assert err.splitlines()[-1].endswith(f"error: {names} shape a new model, and --model names a saved one.")


def test_adapter_is_refused_before_anything_is_read(run, tmp_path):
    model = RelPosViTForImageClassification(RelPosViTConfig.tiny())
    model.save_pretrained(tmp_path / "model")
    adapted = get_peft_model(AutoModelForImageClassification.from_pretrained(tmp_path / "model"), LORA)
    adapted.save_pretrained(tmp_path / "adapter")
    code, _, err = run("--model", tmp_path / "adapter", "--data-dir", "nowhere", "--cpu")
    assert code == 1
    assert "is an adapter of peft" in err.splitlines()[-1] and "merge_and_unload" in err.splitlines()[-1]


def test_changed_learning_rate_of_a_resumed_run_is_told(run, tmp_path, caplog):
    options = [*SMALL, "--batch-size", 9, "--total-steps", 2]
    assert run(*options, "--save-interval", 1)[0] == 0
    last = ["--save-interval", 1, "--resume", tmp_path / "run" / "checkpoint-1"]
    caplog.clear()
    assert run(*options, *last)[0] == 0
    assert "that it was saved with" not in caplog.text
    code, _, err = run(*options, *last, "--lr", 0.25, "--weight-decay", 0.5)
    assert code == 0
    for told in (err, (tmp_path / "run" / "log.txt").read_text()):
        assert "goes on with the learning rate that it was saved with, 0.001, and not with 0.25" in told
        assert "goes on with the weight decay that it was saved with, 0.05, 0.0, and not with 0.5, 0.0" in told


def test_stream_without_images_to_judge_by_says_so(run, tmp_path, image_folder):
    shutil.copytree(image_folder / "train", tmp_path / "images" / "train")
    options = [*SMALL, "--streaming", "--data-dir", tmp_path / "images", "--batch-size", 9, "--total-steps", 1]
    code, _, err = run(*options)
    assert code == 0
    assert "There are no images to judge by" in err and "--val-split" in err


def test_class_that_is_only_judged_by_is_named(run, tmp_path, image_folder):
    shutil.copytree(image_folder, tmp_path / "images")
    shutil.copytree(image_folder / "val" / "circle", tmp_path / "images" / "val" / "star")
    code, _, err = run(*SMALL, "--data-dir", tmp_path / "images", "--batch-size", 20, "--total-steps", 1)
    assert code == 0
    assert "imagefolder train has no image of star" in err
    assert "no image of circle" not in err


def test_stream_that_does_not_tell_its_labels_names_the_option(run, tmp_path):
    features = Features({"image": ImageColumn(), "label": Value("string")})
    rows = [{"image": Image.new("RGB", (8, 8)), "label": name} for name in ("a", "b")]
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / "rows.parquet")
    options = ["--data", "parquet", "--data-files", tmp_path / "rows.parquet", "--streaming", "--total-steps", 1]
    code, _, err = run(*SMALL, *options, "--data-dir", tmp_path)
    assert code == 1
    assert err.splitlines()[-1].endswith("name them by --labels.")


def test_console_shows_few_of_many_broken_images_and_the_log_all(run, tmp_path, image_folder):
    shutil.copytree(image_folder, tmp_path / "images")
    for number in range(10, 19):
        (tmp_path / "images" / "train" / "circle" / f"{number}.png").write_text("no picture")
    code, _, err = run(*SMALL, "--data-dir", tmp_path / "images", "--batch-size", 46, "--total-steps", 1)
    assert code == 0
    assert err.count("Left out /") == 5 and "There are more than 5 of them" in err
    assert (tmp_path / "run" / "log.txt").read_text().count("Left out /") == 12


def test_error_that_ends_a_run_has_a_line_of_its_own_and_is_in_the_log(run, tmp_path, image_folder):
    shutil.copytree(image_folder, tmp_path / "images")
    (tmp_path / "images" / "val" / "square" / "6.png").unlink()  # found before training
    options = ["--max-bad-fraction", 0.0, "--batch-size", 5, "--epochs", 1]
    code, _, err = run(*SMALL, "--data-dir", tmp_path / "images", *options)
    assert code == 1
    assert "\nomnilatent classify: error: " in err  # below the progress bar
    assert "TooManyBadSamplesError: " in (tmp_path / "run" / "log.txt").read_text()
