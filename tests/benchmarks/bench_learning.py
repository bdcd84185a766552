"""Does it learn? All 16 pairs from .mp4 files, against a source-shuffled control on held-out clips.

    python tests/benchmarks/bench_learning.py --make-only --workers 16
    accelerate launch --num_processes 1 tests/benchmarks/bench_learning.py --steps 6000 --workers 14 --memory-gib 8

The first command writes the small world (clips of 2 s with sound and captions; the held-out ones have combinations of
colour and shape that training never shows). The second trains on it through the streamed collection and prints, for
each pair, the held-out gain over the control with its 95 % bootstrap interval over clips, and retrieval between all
modalities. Bits are per token of text, decibels are of the squared error.
"""

import argparse
import itertools
import time
from pathlib import Path

import torch
from transformers import TrainerCallback

from omnilatent import OmniLatentConfig, OmniLatentModel
from omnilatent.configuration.modalities import MODALITIES, TEXT
from omnilatent.training import ALL_PAIRS, OmniLatentTrainer, OmniLatentTrainingArguments, evaluate_pairs, retrieval
from omnilatent.training.data import VideoLoader, synthetic_collection


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/bench_learning"))
    parser.add_argument("--train-clips", type=int, default=8000)
    parser.add_argument("--validation-clips", type=int, default=512)
    parser.add_argument("--make-only", action="store_true", help="write the small world and stop")
    parser.add_argument("--workers", type=int, default=2, help="processes that decode (or, with --make-only, write)")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument(
        "--minutes", type=float, default=None, help="as many steps as fit, by the time of the first 60"
    )
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--targets-per-step", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=6e-4)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--image-size", type=int, default=112, help="pixels")
    parser.add_argument("--video-size", type=int, default=112, help="pixels")
    parser.add_argument("--patch-size", type=int, default=16, help="pixels")
    parser.add_argument("--tubelet-size", type=int, default=4, help="frames of a video token")
    parser.add_argument("--contrast", type=float, default=0.1, help="weight of the contrastive loss")
    parser.add_argument("--memory-gib", type=float, default=None, help="cap on the process' GPU memory")
    arguments = parser.parse_args()

    config = OmniLatentConfig(
        vocab_size=259,
        hidden_size=arguments.dim,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.heads,
        image_size=arguments.image_size,
        image_patch_size=arguments.patch_size,
        video_size=arguments.video_size,
        video_patch_size=arguments.patch_size,
        video_tubelet_size=arguments.tubelet_size,
        contrastive_loss_weight=arguments.contrast,
    )
    begun = time.perf_counter()
    workers = arguments.workers if arguments.make_only else 0
    train, validation = (
        synthetic_collection(
            arguments.folder / split, clips, seed=seed, split=split, config=config, num_workers=workers
        )
        for split, clips, seed in (
            ("train", arguments.train_clips, 0),
            ("validation", arguments.validation_clips, 1),
        )
    )
    print(
        f"world of {train.num_clips} + {validation.num_clips} clips: {time.perf_counter() - begun:.0f} s", flush=True
    )
    if arguments.make_only:
        return
    if arguments.memory_gib is not None:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(arguments.memory_gib * 2**30 / total)

    steps = arguments.steps
    if arguments.minutes is not None:
        begun = time.perf_counter()
        clock = StepClock(skip=20)
        train_model(config, arguments, train, steps=60, callbacks=[clock])
        spent = time.perf_counter() - begun
        steps = int((60 * arguments.minutes - spent) / clock.seconds_per_step)
        print(
            f"{1e3 * clock.seconds_per_step:.0f} ms a step: {steps} steps in the rest of {arguments.minutes} minutes"
        )
    begun = time.perf_counter()
    model = train_model(config, arguments, train, steps)
    seconds = time.perf_counter() - begun
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"\n{count / 1e6:.1f} M parameters, {steps} steps of {arguments.batch_size} clips in {seconds:.0f} s")
    if torch.cuda.is_available():
        print(f"peak memory reserved {torch.cuda.max_memory_reserved() / 2**30:.2f} GiB")
    report(model, validation, arguments.workers)


class StepClock(TrainerCallback):
    """Seconds per step after the first `skip`."""

    def __init__(self, skip):
        self.skip, self.begun, self.seconds_per_step = skip, None, None

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.skip:
            self.begun = time.perf_counter()
        if state.global_step == state.max_steps:
            self.seconds_per_step = (time.perf_counter() - self.begun) / (state.max_steps - self.skip)


def train_model(config, arguments, train, steps, callbacks=()):
    torch.manual_seed(0)
    model = OmniLatentModel(config)
    args = OmniLatentTrainingArguments(
        str(arguments.folder / "checkpoints"),
        max_steps=steps,
        per_device_train_batch_size=arguments.batch_size,
        targets_per_step=arguments.targets_per_step,
        learning_rate=arguments.learning_rate,
        dataloader_num_workers=arguments.workers,
        logging_steps=max(1, steps // 40),
        activation_checkpointing=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    OmniLatentTrainer(model, args, train_dataset=train, callbacks=list(callbacks)).train()
    return model


def report(model, validation, workers):
    begun = time.perf_counter()
    batches = list(VideoLoader(validation, 64, shuffle=False, epochs=1, num_workers=workers))
    results = evaluate_pairs(model, batches, ALL_PAIRS)
    print(f"\n{'pair':>16} {'loss':>8} {'control':>8} {'gain':>7}  95 % interval     unit")
    for pair, result in results.items():
        low, high = result["interval"]
        unit = "bit/token" if pair.target == TEXT else "dB"
        verdict = "" if low > 0 else "  does not beat its control"
        print(
            f"{str(pair):>16} {result['loss']:>8.4f} {result['shuffled_loss']:>8.4f} {result['gain']:>7.2f}  "
            f"[{low:6.2f}, {high:6.2f}]  {unit}{verdict}"
        )
    print(
        f"\n{'retrieval':>16} {'R@1':>7} {'back':>7} {'chance':>7} among {next(iter(results.values()))['clips']} clips"
    )
    for first, second in itertools.combinations(MODALITIES, 2):
        found = retrieval(model, batches, first, second)
        forth, back = found[f"{first}_to_{second}"], found[f"{second}_to_{first}"]
        print(f"{first + '-' + second:>16} {forth:>7.3f} {back:>7.3f} {found['chance']:>7.4f}")
    print(f"evaluation {time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
