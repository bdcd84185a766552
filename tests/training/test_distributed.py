"""Several processes train one model."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import debug_launcher
from accelerate.state import AcceleratorState

from omnilatent.training.checkpoints import check_manifest

EXAMPLE = Path(__file__).parents[2] / "hub_examples" / "finetune_with_accelerate.py"
SCRIPT = Path(__file__).with_name("distributed_run.py")


def _in_process(folder, settings):
    AcceleratorState._reset_state(reset_partial_state=True)  # forked from a process that was alone
    runpy.run_path(str(SCRIPT))["run"](folder, **settings)


def _example_in_process(folder):
    AcceleratorState._reset_state(reset_partial_state=True)
    runpy.run_path(str(EXAMPLE))["main"](["--steps", "5", "--out", str(folder)])


def _results(folder, ranks=2):
    return [torch.load(Path(folder, f"rank{rank}.pt")) for rank in range(ranks)]


def _assert_equal(first, second):
    for name in first["weights"]:
        assert torch.equal(first["weights"][name], second["weights"][name]), name


@pytest.fixture(autouse=True)
def one_thread_each(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_two_processes_hold_one_model_though_rows_are_missing_and_resume_exactly(tmp_path):
    debug_launcher(_in_process, (tmp_path, {}))
    first, second = _results(tmp_path)
    _assert_equal(first, second)
    gains = [{name: value for name, value in rank["metrics"].items() if "gain" in name} for rank in (first, second)]
    assert gains[0] == gains[1] and len(gains[0]) == 2
    check_manifest(tmp_path / "checkpoint-12")

    (tmp_path / "checkpoint-12" / "manifest.json").unlink()
    debug_launcher(_in_process, (tmp_path, {}))
    for resumed in _results(tmp_path):
        _assert_equal(resumed, first)


def test_two_processes_with_gradient_checkpointing_hold_one_model(tmp_path):
    debug_launcher(_in_process, (tmp_path, {"activation_checkpointing": True, "max_steps": 6}))
    _assert_equal(*_results(tmp_path))


def test_two_processes_with_single_rows_equal_one_with_both(tmp_path):
    settings = {"max_steps": 5, "contrast": False, "save_strategy": "no", "optim": "sgd", "learning_rate": 0.1}
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    debug_launcher(_in_process, (tmp_path / "two", settings))
    _in_process(tmp_path / "one", {**settings, "per_device_train_batch_size": 2})
    two, one = _results(tmp_path / "two")[0], _results(tmp_path / "one", 1)[0]
    for name, values in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], values, rtol=1e-4, atol=1e-6)


def test_plain_accelerate_example_runs_on_two_processes(tmp_path):
    debug_launcher(_example_in_process, (tmp_path,))
    assert (tmp_path / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_accelerate_launch(tmp_path, processes):
    several = ["--multi_gpu"] if processes > 1 else []
    command = [sys.executable, "-m", "accelerate.commands.launch", *several, "--num_processes", str(processes)]
    settings = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    subprocess.run([*command, *settings, str(SCRIPT), str(tmp_path)], check=True, env=environment, timeout=240)
    results = _results(tmp_path, processes)
    _assert_equal(results[0], results[-1])
