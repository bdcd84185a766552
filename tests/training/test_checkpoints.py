"""Checkpoints are whole or refused, and a run that resumes is the run that was not stopped."""

import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import TrainerCallback

from omnilatent.training import CurriculumTrainer, InvalidCheckpointError, OmniLatentTrainer, whole_checkpoints
from omnilatent.training.checkpoints import check_manifest
from omnilatent.training.data import VideoCollection, make_small_world


class Drawn(torch.utils.data.Dataset):
    """Items drawn at random, some of them silent: what can go wrong in resuming goes wrong here."""

    def __len__(self):
        return 7

    def __getitem__(self, index):
        item = {"image": torch.rand(3, 32, 32), "video": torch.rand(3, 4, 16, 16)}
        return item if index % 3 == 0 else {**item, "audio": torch.rand(16, 24), "text": torch.randint(3, 259, (6,))}


def weights(trainer):
    return {name: values.clone() for name, values in trainer.model.state_dict().items()}


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


SAVING = {"max_steps": 9, "save_strategy": "steps", "save_steps": 1, "gradient_accumulation_steps": 2}


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_run_equals_the_uninterrupted_one_after_any_step(make_trainer, workers):
    settings = {**SAVING, "config": {"attention_dropout": 0.1}, "dataloader_num_workers": workers}
    whole = make_trainer(Drawn(), CurriculumTrainer, folder="whole", **settings)
    whole.train()
    for step in (1, 4, 8):
        resumed = make_trainer(Drawn(), CurriculumTrainer, folder="resumed", **settings)
        resumed.train(resume_from_checkpoint=Path(whole.args.output_dir, f"checkpoint-{step}"))
        assert resumed.state.global_step == 9
        assert_equal(weights(resumed), weights(whole))


def test_resumed_run_on_videos_equals_the_uninterrupted_one(make_trainer, tmp_path):
    make_small_world(tmp_path / "world", 3, duration=2.0, pixels=32)
    settings = {"max_steps": 8, "save_strategy": "steps", "save_steps": 3, "dataloader_num_workers": 1}

    def trainer(folder):
        measures = {"video_size": 16, "image_size": 32, "clip_duration": 0.5, "clip_stride": 0.25}
        videos = VideoCollection.from_folder(tmp_path / "world", **measures)
        return make_trainer(videos, CurriculumTrainer, folder=folder, **settings)

    whole, resumed = trainer("whole"), trainer("resumed")
    whole.train()
    resumed.train(resume_from_checkpoint=Path(whole.args.output_dir, "checkpoint-3"))
    assert_equal(weights(resumed), weights(whole))


def test_adapters_resume_as_well(make_trainer, items):
    def trainer(folder):
        made = make_trainer(items(5), folder=folder, max_steps=4, save_strategy="steps", save_steps=2)
        torch.manual_seed(3)
        model = get_peft_model(made.model, LoraConfig(target_modules="all-linear", r=2))
        return OmniLatentTrainer(model, made.args, train_dataset=items(5))

    whole, resumed = trainer("whole"), trainer("resumed")
    whole.train()
    resumed.train(resume_from_checkpoint=Path(whole.args.output_dir, "checkpoint-2"))
    assert_equal(weights(resumed), weights(whole))


# --- killed ----------------------------------------------------------------------------------------------------------


def _die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


def _die_before_the_manifest(monkeypatch):
    monkeypatch.setattr(whole_checkpoints, "write_manifest", _die)


def _die_within_the_optimizer_file(monkeypatch):
    save = torch.save

    def half(value, path, *args, **kwargs):
        save(value, path, *args, **kwargs)
        if Path(path).name == "optimizer.pt":
            os.truncate(path, os.path.getsize(path) // 2)
            _die()

    monkeypatch.setattr(torch, "save", half)


def _die_within_the_manifest(monkeypatch):
    monkeypatch.setattr(os, "replace", _die)


def _die_while_removing_an_old_checkpoint(monkeypatch):
    rmtree = shutil.rmtree

    def half(folder, *args, **kwargs):
        if Path(folder).name.startswith("checkpoint-"):
            Path(folder, "model.safetensors").unlink()
            _die()
        rmtree(folder, *args, **kwargs)

    monkeypatch.setattr(shutil, "rmtree", half)


class KillAt(TrainerCallback):
    def __init__(self, step, prepare):
        self.step, self.prepare = step, prepare

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.prepare(pytest.MonkeyPatch())


@pytest.mark.parametrize(
    "kill, newest",
    [
        (_die_within_the_optimizer_file, 4),
        (_die_before_the_manifest, 4),
        (_die_within_the_manifest, 4),
        (_die_while_removing_an_old_checkpoint, 6),
    ],
)
def test_run_killed_while_saving_resumes_as_if_it_had_not(make_trainer, items, kill, newest, caplog):
    settings = {"max_steps": 8, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 2}
    whole = make_trainer(items(5), folder="whole", **settings)
    whole.train()

    def run_until_killed():
        trainer = make_trainer(items(5), folder="killed", **settings)
        trainer.add_callback(KillAt(6, kill))
        trainer.train()

    process = multiprocessing.get_context("fork").Process(target=run_until_killed)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL

    resumed = make_trainer(items(5), folder="killed", **settings)
    folder = Path(resumed.args.output_dir)
    with caplog.at_level(logging.INFO, "omnilatent"):
        resumed.train(resume_from_checkpoint="auto")
    said = [record.getMessage() for record in caplog.records]
    assert any(f"Resuming from {folder / f'checkpoint-{newest}'}" in line for line in said)
    assert any("Skipped a broken checkpoint" in line and "checkpoint-6" in line for line in said) == (newest == 4)
    assert_equal(weights(resumed), weights(whole))
    valid = sorted(path.name for path in folder.glob("checkpoint-*"))
    assert valid == ["checkpoint-6", "checkpoint-8"]
    for name in valid:
        check_manifest(folder / name)


@pytest.mark.slow
def test_run_killed_at_random_moments_ends_as_if_it_had_not_been(make_trainer, items):
    settings = {"max_steps": 30, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 3}
    whole = make_trainer(items(5), folder="whole", **settings)
    whole.train()
    moments = random.Random(0)
    kills = 0
    while kills < 60:
        trainer = make_trainer(items(5), folder="killed", **settings)
        process = multiprocessing.get_context("fork").Process(target=trainer.train, args=("auto",))
        process.start()
        process.join(moments.uniform(0.05, 1.0))
        if process.exitcode is not None:
            break
        process.kill()
        process.join()
        kills += 1
    assert process.exitcode == 0 and kills > 3
    last = Path(trainer.args.output_dir, "checkpoint-30")
    check_manifest(last)
    assert_equal(
        load_file(last / "model.safetensors"),
        load_file(Path(whole.args.output_dir, *last.parts[-1:], "model.safetensors")),
    )


# --- refused ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(make_trainer, items):
    trainer = make_trainer(items(4), max_steps=2, save_strategy="steps", save_steps=1)
    trainer.train()
    return Path(trainer.args.output_dir)


def test_truncated_weights_are_refused_by_name(make_trainer, items, saved):
    weights = saved / "checkpoint-2" / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 100)
    with pytest.raises(InvalidCheckpointError, match=r"checkpoint-2/model\.safetensors has \d+ bytes"):
        make_trainer(items(4)).train(resume_from_checkpoint=saved / "checkpoint-2")


def test_changed_weights_are_refused_by_name(make_trainer, items, saved):
    weights = saved / "checkpoint-2" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InvalidCheckpointError, match=r"model\.safetensors is not what was saved"):
        make_trainer(items(4)).train(resume_from_checkpoint=saved / "checkpoint-2")


def test_checkpoint_of_another_model_type_is_refused(make_trainer, items, saved):
    config = saved / "checkpoint-2" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_type": "llama"}))
    from omnilatent.training.checkpoints import write_manifest

    write_manifest(saved / "checkpoint-2")
    with pytest.raises(InvalidCheckpointError, match="'llama', expected 'omnilatent'"):
        make_trainer(items(4)).train(resume_from_checkpoint=saved / "checkpoint-2")


@pytest.mark.parametrize(
    "config, tensor", [({"hidden_size": 96}, "coordinate_embedding"), ({"num_hidden_layers": 3}, "layers.2")]
)
def test_checkpoint_of_another_size_is_refused(make_trainer, items, saved, config, tensor):
    with pytest.raises(InvalidCheckpointError, match=f"another model: {tensor}"):
        make_trainer(items(4), config=config).train(resume_from_checkpoint=saved / "checkpoint-2")


def test_folder_that_is_no_checkpoint_is_refused(make_trainer, items, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, words in ((tmp_path / "empty", "no manifest.json"), (tmp_path / "none", "There is no checkpoint")):
        with pytest.raises(InvalidCheckpointError, match=words):
            make_trainer(items(4)).train(resume_from_checkpoint=folder)


def test_weights_without_optimizer_cannot_be_resumed(make_trainer, items):
    settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "save_only_model": True}
    trainer = make_trainer(items(4), **settings)
    trainer.train()
    with pytest.raises(InvalidCheckpointError, match="save_only_model"):
        make_trainer(items(4), **settings).train(resume_from_checkpoint=True)


def test_auto_starts_afresh_where_nothing_was_saved_and_true_does_not(make_trainer, items):
    assert make_trainer(items(4), max_steps=1).train(resume_from_checkpoint="auto").global_step == 1
    with pytest.raises(InvalidCheckpointError, match="no valid checkpoint"):
        make_trainer(items(4), max_steps=1).train(resume_from_checkpoint=True)


def test_checkpoint_and_other_settings_on_resuming_are_announced(make_trainer, items, saved, caplog):
    with caplog.at_level(logging.INFO, "omnilatent"):
        make_trainer(items(4), max_steps=3, task_seed=5).train(resume_from_checkpoint=saved / "checkpoint-2")
    said = [record.getMessage() for record in caplog.records]
    assert f"Resuming from {saved / 'checkpoint-2'}" in said
    assert any("another max_steps than it was saved with: 3, was 2" in line for line in said)
    assert any("another task_seed" in line for line in said)
