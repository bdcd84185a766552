"""The scripts in `hub_examples/` do what their first lines say."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import av
import pytest
import torch
from PIL import Image

from omnilatent import OmniLatentModel, OmniLatentProcessor
from omnilatent.training.data import make_sample_data

FOLDER = Path(__file__).parents[2] / "hub_examples"
sys.path.insert(0, str(Path(__file__).parent))
from hub_stub import HubStub  # noqa: E402  (a neighbour, which importlib mode does not find by itself)


def load(name):
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_every_example_has_a_test_here():
    tested = {"any_to_any", "finetune_with_accelerate", "finetune_with_trainer", "push_and_pull", "train_from_folder"}
    tested |= {"align_towers", "classify_images", "create_model", "train_model"}
    # those of hooks have theirs in test_hook_examples.py
    assert {path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("hook_")} == tested


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "fused tokens (2, 48, 96)"),
        (["--config", "configs/base_text_image_model.json"], "fused tokens (2, 32, 512)"),
        (["--task", "retrieval"], "MultiModalForRetrieval: "),
    ],
)
def test_create_model_tells_what_the_model_makes(arguments, said, capfd):
    load("create_model").main(arguments)
    assert said in capfd.readouterr().out


def test_train_from_folder_leaves_a_model_and_tells_held_out_figures(capfd):
    load("train_from_folder").main(["--steps", "4"])
    assert "eval_gain_video_to_audio" in capfd.readouterr().out
    out = Path("runs/train_from_folder")
    assert OmniLatentModel.from_pretrained(out).config.hidden_size == 48
    assert OmniLatentProcessor.from_pretrained(out).tokenizer.decode([75]) == "H"


def test_train_from_folder_goes_on_where_it_stood(capfd):
    load("train_from_folder").main(["--steps", "3"])
    load("train_from_folder").main(["--steps", "5"])
    states = [
        json.loads(path.read_text()) for path in Path("runs/train_from_folder").glob("checkpoint-*/trainer_state.json")
    ]
    assert sorted(state["global_step"] for state in states) == [3, 5]


def test_align_towers_finds_a_video_for_each_sound(capfd):
    load("align_towers").main(["--steps", "3"])
    assert capfd.readouterr().out.count("is nearest to train-") == 8


@pytest.mark.parametrize("task", ["retrieval", "vqa"])
def test_train_model_trains_saves_and_judges_a_task(task, capfd):
    make_sample_data("sample", num_train=16, num_val=8, size=24)
    data = ["--train_data", "sample/train.json", "--val_data", "sample/val.json", "--output_dir", "made"]
    metrics = load("train_model").main(["--task", task, "--num_epochs", "1", "--batch_size", "8", *data])
    metric = {"retrieval": "eval_R@1", "vqa": "eval_accuracy"}[task]
    assert 0 <= metrics[metric] <= 1
    assert f"with MultiModalProcessor: {task} " in capfd.readouterr().out
    assert Path("made/model.safetensors").is_file()


def test_classifier_learns_a_drawn_folder_of_images(capfd):
    load("classify_images").main(["--steps", "40"])
    lines = capfd.readouterr().out.splitlines()
    assert float(lines[-2].rsplit(" ", 1)[1]) > 0.8
    assert lines[-1].startswith("runs/classify_images/images/apple/0.png: apple (")


def test_finetuning_with_the_trainer_learns_the_captions(capfd):
    load("finetune_with_trainer").main(["--steps", "90", "--lr", "1e-2"])
    assert "A blue picture: It is " in capfd.readouterr().out


def test_plain_accelerate_loop_lowers_the_loss(capfd):
    load("finetune_with_accelerate").main(["--steps", "40"])
    lines = [line for line in capfd.readouterr().out.splitlines() if "image -> text" in line]
    losses = [float(line.rsplit(" ", 1)[1]) for line in lines]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert OmniLatentModel.from_pretrained("runs/finetune_with_accelerate").config.hidden_size == 48


def test_any_to_any_writes_real_files():
    Image.new("RGB", (50, 70), "orange").save("mine.png")
    load("any_to_any").main(["mine.png", "--out", "made"])
    assert Image.open("made/made.png").size == (32, 32)
    with av.open("made/made.mp4") as container:
        assert {stream.type for stream in container.streams} == {"video", "audio"}
        assert sum(1 for _ in container.decode(video=0)) == 4
    with av.open("made/made.wav") as container:
        assert container.streams.audio[0].rate == 16000
    assert Path("made/made.txt").is_file()


def test_push_and_pull_through_a_folder(capsys):
    load("push_and_pull").main(["--folder", "place"])
    assert "place: 1" in capsys.readouterr().out
    assert Path("place/model.safetensors").is_file()


def test_push_and_pull_through_a_hub(tmp_path):
    """The real client against a Hub on loopback; in a process of its own, as it reads HF_ENDPOINT when imported."""
    with HubStub() as hub:
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.endpoint,
            "HF_TOKEN": "hf_of_the_test",
            "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
            environment.pop(variable, None)
        command = [sys.executable, FOLDER / "push_and_pull.py", "--repo-id", "me/tiny-omnilatent", "--private"]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        assert "me/tiny-omnilatent" in done.stdout
        assert hub.private == {"me/tiny-omnilatent": True}
        pushed = {path for _, path in hub.files}
        assert {"config.json", "model.safetensors", "tokenizer.json", "processor_config.json"} <= pushed
        (tmp_path / "weights").write_bytes(hub.files["me/tiny-omnilatent", "model.safetensors"])
    from safetensors.torch import load_file

    assert all(torch.isfinite(tensor).all() for tensor in load_file(tmp_path / "weights").values())
