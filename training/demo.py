"""The demonstration: from video files to a trained, saved, reloaded and judged model in a few minutes on two cores."""

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import TrainerCallback

from ..configuration.configuration_omnilatent import OmniLatentConfig
from ..configuration.modalities import MODALITIES, TEXT
from ..modeling_omni.omnilatent.modeling_omnilatent import OmniLatentModel
from ..processing.processing_omnilatent import OmniLatentProcessor
from ..processing.tokenization_omnilatent import NUM_TEXT_IDS
from .arguments import OmniLatentTrainingArguments
from .curriculum import CurriculumTrainer
from .data import VideoCollection, VideoLoader, make_small_world, to_model_inputs
from .pairs import ALL_PAIRS
from .report import GRADIENTS_FILE
from .trainer import OmniLatentTrainer

DURATION = 2.0  # seconds of a clip
FPS = 4.0
PIXELS = 64
BATCH_SIZE = 8
MOST_STEPS = 4000
SLACK = 1.15  # training may take this much longer than the time it was planned for


class GradientWatch(TrainerCallback):
    """Notes which parameter tensors have received a gradient that is finite and not zero."""

    def __init__(self):
        self.steps = 0
        self.alive: set[str] = set()
        self.not_finite: set[str] = set()

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.steps += 1
        for name, parameter in model.named_parameters():
            if parameter.grad is None:
                continue
            if not parameter.grad.isfinite().all():
                self.not_finite.add(name)
            elif name not in self.alive and parameter.grad.any():
                self.alive.add(name)

    def summary(self, model) -> dict:
        """`tensors`, the number of trained ones; `steps`; names of those that stayed `silent`, or were `not_finite`."""
        names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        return {
            "tensors": len(names),
            "steps": self.steps,
            "silent": [name for name in names if name not in self.alive],
            "not_finite": sorted(self.not_finite),
        }


def demo_config() -> OmniLatentConfig:
    """A model of about a million parameters, small enough to learn something in minutes on two cores."""
    return OmniLatentConfig(
        vocab_size=320,
        text_vocab_size=NUM_TEXT_IDS,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        sequence_adaptation="interpolate",  # targets that resemble their sources are learned in fewer steps
        num_mel_bins=64,
        hop_length=320,
        audio_target_length=100,
        image_size=PIXELS,
        max_image_size=PIXELS,
        video_size=PIXELS // 2,
        video_patch_size=8,
        num_frames=8,
        max_frames=16,
        video_fps=FPS,
        contrastive_loss_weight=0.2,
    )


def run_demo(
    out: Path,
    num_videos: int = 480,
    num_held_out: int = 128,
    minutes: float = 3.5,
    steps: int | None = None,
    seed: int = 0,
) -> None:
    """
    Make a small world, run the curriculum on it, save, and write a report in a new process that loads the model again.

    Args:
        out: Folder of the results; what an earlier demo left in it is replaced.
        num_videos: Video files to learn from.
        num_held_out: Video files to judge by, with combinations of colour and shape that are not among the others.
        minutes: Of training; the number of steps follows from it and from the speed of the machine.
        steps: Optimiser steps, if their number is to be fixed.
        seed: Of everything random.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    begun = time.perf_counter()
    train_dir, held_out_dir, model_dir = (out / name for name in ("videos", "held_out_videos", "model"))
    shutil.rmtree(model_dir, ignore_errors=True)
    _say(begun, f"writing {num_videos} + {num_held_out} videos below {out}")
    for folder, count, split in ((train_dir, num_videos, "train"), (held_out_dir, num_held_out, "validation")):
        make_small_world(folder, count, seed, split, DURATION, fps=FPS, pixels=PIXELS, num_workers=os.cpu_count() or 1)
    config = demo_config()
    clips = decode_clips(train_dir, config, seed)
    callbacks = []
    if steps is None:
        steps = steps_within(clips, config, minutes * 60, seed)
        callbacks = [_Deadline(SLACK * minutes * 60)]
    _say(begun, f"training on {len(clips)} clips for {steps} steps, {torch.get_num_threads()} threads")
    train_model(clips, config, model_dir, steps, seed, callbacks)
    _say(begun, "loading the saved model in a new process, judging it on the held-out videos")
    command = [sys.executable, "-m", "omnilatent.training.cli", "report", "--model", model_dir]
    command += ["--video-dir", held_out_dir, "--out", out / "report.html", "--clip-duration", str(DURATION)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run([str(part) for part in command], check=True, env=environment)
    _say(begun, "done")


def decode_clips(folder: Path, config: OmniLatentConfig, seed: int) -> list[dict[str, torch.Tensor]]:
    """All clips of a folder as the model reads them. So small a world is decoded once and stays in memory."""
    videos = VideoCollection.from_folder(
        folder, config, clip_duration=DURATION, clip_stride=DURATION, seed=seed, max_bad_fraction=0.0
    )
    items = []
    for batch in VideoLoader(videos, 32, shuffle=False, epochs=1, num_workers=os.cpu_count() or 1):
        inputs = to_model_inputs(batch, config)
        for row in range(len(batch["path"])):
            item = {name: inputs[name][row] for name in MODALITIES}
            items.append({**item, TEXT: item[TEXT][item[TEXT] != config.pad_token_id]})
    return items


def train_model(clips, config: OmniLatentConfig, folder: Path, steps: int, seed: int, callbacks=()) -> None:
    """Run the curriculum; leave model, processor, log and what `GradientWatch` saw in the folder."""
    torch.manual_seed(seed)
    model = OmniLatentModel(config)
    watch = GradientWatch()
    args = _arguments(folder, steps, seed)
    processor = OmniLatentProcessor.from_config(config)
    trainer = CurriculumTrainer(
        model, args, train_dataset=clips, processing_class=processor, callbacks=[watch, *callbacks]
    )
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    (folder / GRADIENTS_FILE).write_text(json.dumps(watch.summary(model), indent=1))


def _arguments(folder, steps, seed, **settings):
    return OmniLatentTrainingArguments(
        str(folder),
        max_steps=steps,
        seed=seed,
        per_device_train_batch_size=BATCH_SIZE,
        learning_rate=3e-3,
        targets_per_step=2,
        # a short run needs its steps where all pairs are trained together
        warmup_fraction=0.10,
        crossmodal_fraction=0.15,
        temporal_fraction=0.05,
        grounding_fraction=0.20,
        joint_fraction=0.50,
        logging_steps=max(1, steps // 40),
        save_strategy="no",
        report_to=[],
        **settings,
    )


class _Deadline(TrainerCallback):
    """Ends training after so many seconds: other work on the machine may have slowed it since it was timed."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    def on_train_begin(self, args, state, control, **kwargs):
        self.end = time.perf_counter() + self.seconds

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= time.perf_counter() > self.end


class _StepClock(TrainerCallback):
    """When each step ended; stops the run once its steps are certain to be slower than those of another."""

    def __init__(self, seconds_of_another: float):
        self.times: list[float] = []
        self.seconds_of_another = seconds_of_another

    def on_step_end(self, args, state, control, **kwargs):
        self.times.append(time.perf_counter())
        control.should_training_stop |= self.times[-1] - self.times[0] > self.seconds_of_another

    @property
    def seconds(self) -> float:
        """From the end of the first step, which pays for what is set up once, to that of the last."""
        return self.times[-1] - self.times[0]


def steps_within(clips, config, seconds: float, seed: int) -> int:
    """
    How many steps of the joint phase fit, tried with a model that is thrown away; at most `MOST_STEPS`.

    Also leaves torch with as many threads as were fastest: on shared cores threads that wait for each other are slower
    than a single one.
    """
    tried = 1 + len(ALL_PAIRS)
    fastest, best = 1, float("inf")
    for threads in sorted({1, torch.get_num_threads()}):
        torch.set_num_threads(threads)
        clock = _StepClock(best)
        with tempfile.TemporaryDirectory() as folder:
            args = _arguments(folder, tried, seed, disable_tqdm=True, log_level="error")
            OmniLatentTrainer(OmniLatentModel(config), args, train_dataset=clips, callbacks=[clock]).train()
        if clock.seconds < best:
            fastest, best = threads, clock.seconds
    torch.set_num_threads(fastest)
    return max(1, min(MOST_STEPS, int(seconds * (tried - 1) / best)))


def _say(begun, what):
    print(f"[{time.perf_counter() - begun:4.0f} s] {what}", flush=True)
