"""Two processes align one model."""

from pathlib import Path

import pytest
import torch
from accelerate import debug_launcher
from accelerate.state import AcceleratorState

from omnilatent.training import AlignerTrainer, AlignerTrainingArguments, make_aligner
from omnilatent.training.data import VideoCollection, make_small_world


def _in_process(folder, videos):
    AcceleratorState._reset_state(reset_partial_state=True)  # forked from a process that was alone
    torch.set_num_threads(1)
    collection = VideoCollection.from_folder(videos, segments_per_task=1, video_size=32, image_size=32)
    settings = {
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "save_steps": 2,
        "use_cpu": True,
        "report_to": "none",
    }
    args = AlignerTrainingArguments(str(folder), disable_tqdm=True, **settings)
    torch.manual_seed(args.process_index)  # weights that differ until they are shared
    model, processor = make_aligner(image_size=32, width=32, layers=1, num_hidden_layers=1, gather_loss=True)
    trainer = AlignerTrainer(model, args, processor, train_dataset=collection, eval_dataset=collection)
    trainer.train(resume_from_checkpoint="auto")
    metrics = trainer.evaluate()
    torch.save({"weights": model.state_dict(), "metrics": metrics}, Path(folder, f"rank{args.process_index}.pt"))


@pytest.fixture(autouse=True)
def one_thread_each(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def _run(folder, videos):
    debug_launcher(_in_process, (folder, videos))
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


def test_two_processes_hold_one_aligner_see_all_clips_and_resume_exactly(tmp_path):
    videos = tmp_path / "videos"
    make_small_world(videos, 9, pixels=32)
    first, second = _run(tmp_path, videos)
    assert first["metrics"]["eval_clips"] == second["metrics"]["eval_clips"] == 9
    for name, values in first["weights"].items():
        assert torch.equal(values, second["weights"][name]), name
    (tmp_path / "checkpoint-4" / "manifest.json").unlink()
    for resumed in _run(tmp_path, videos):
        for name, values in resumed["weights"].items():
            assert torch.equal(values, first["weights"][name]), name
