"""The specification's five uses of hooks, each with the effect that its script claims."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

FOLDER = Path(__file__).parents[2] / "hub_examples"
sys.path.insert(0, str(Path(__file__).parent))
from hub_stub import HubStub  # noqa: E402  (a neighbour, which importlib mode does not find by itself)


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(name, *argv):
    """What an example's `main` returns."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for models this small further threads are a hindrance
    try:
        return module.main(list(argv))
    finally:
        torch.set_num_threads(threads)


def test_every_example_of_hooks_has_a_test_here():
    uses = {"new_modality", "task_behaviour", "knowledge", "interpretability", "composition"}
    assert {path.stem for path in FOLDER.glob("hook_*.py")} == {f"hook_{use}" for use in uses}


def test_a_new_modality_is_understood_on_held_out_data_by_a_base_that_stays_as_it_was(capsys):
    results = run("hook_new_modality", "--steps", "60")
    assert results["accuracy"] > 0.8
    assert results["shuffled"] < 0.4  # chance is 0.25
    assert results["before"] == results["after"] and results["before"] in capsys.readouterr().out


def test_a_hook_gives_the_model_another_task_and_takes_it_away_again():
    results = run("hook_task_behaviour", "--steps", "150")
    larger, smaller = results["base"]
    assert larger > 0.75 and smaller < 0.15
    larger, smaller = results["hook"]
    assert larger < 0.15 and smaller > 0.75
    assert results["off"] == results["base"] and results["same"]


def test_answers_follow_what_was_retrieved():
    results = run("hook_knowledge", "--steps", "150")
    assert results["retrieved"] > 0.4 and results["exchanged"] > 0.4  # both syllables of a place never trained on
    assert results["without"] < 0.15


def test_a_picture_shows_how_hooks_come_to_be_read():
    results = run("hook_interpretability", "--steps", "100", "--out", "pictures/hooks.png")
    assert results["accuracy"] > 0.6
    for (_, before), (_, after) in zip(results["before"], results["after"], strict=True):
        assert 0 < 1.5 * before < after < 1
    picture = Image.open("pictures/hooks.png")
    assert picture.width > 800 and len(picture.convert("RGB").getcolors(1 << 24)) > 100


def test_hooks_and_lora_work_together_and_are_saved_one_by_one():
    results = run("hook_composition", "--steps", "30")
    names = ("number", "colour", "animal")
    assert max(results["none"].values()) < 0.3
    assert min(results["number + colour + animal"].values()) > 0.9
    for name in names:
        assert results[f"without {name}"][name] < 0.7, name
        config = json.loads(Path("runs/hook_composition", name, "adapter_config.json").read_text())
        assert config["peft_type"] == ("LORA" if name == "number" else "LATENT_HOOK")
    assert results["off_is_exact"] and results["loaded_is_exact"] and results["deleted_is_exact"]


PUSH_AND_PULL = """
import torch
from peft import PeftModel, get_peft_model
from omnilatent import LatentHookConfig, OmniLatentConfig, OmniLatentModel

ids = torch.arange(3, 9).view(1, 6)
adapter = LatentHookConfig(num_tokens=3, init_weights=False)

def make():
    torch.manual_seed(0)
    return OmniLatentModel(OmniLatentConfig.tiny()).eval()

by_peft = get_peft_model(make(), adapter).eval()
by_peft.push_to_hub("me/by-peft")
by_transformers = make()
by_transformers.add_adapter(adapter)
by_transformers.push_to_hub("me/by-transformers")
for pushed, place in ((by_peft, "me/by-peft"), (by_transformers, "me/by-transformers")):
    for lean in (True, False):
        pulled = [PeftModel.from_pretrained(make(), place, low_cpu_mem_usage=lean), make()]
        pulled[1].load_adapter(place, low_cpu_mem_usage=lean)
        with torch.no_grad():
            said, *again, without = [model(input_ids=ids).logits for model in (pushed, *pulled, make())]
        assert all(torch.equal(said, other) for other in again), (place, lean)
        assert not torch.allclose(said, without)
by_peft.save_pretrained("saved")
"""


def test_adapters_are_pushed_with_a_card_and_pulled(tmp_path):
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
        command = [sys.executable, "-c", PUSH_AND_PULL]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        files = dict(hub.files)
    for place in ("me/by-peft", "me/by-transformers"):
        assert {path for name, path in files if name == place} >= {"adapter_model.safetensors", "README.md"}
        assert json.loads(files[place, "adapter_config.json"])["peft_type"] == "LATENT_HOOK"
    assert "library_name: peft" in Path("saved/README.md").read_text()
