"""Training an OmniLatentModel: `demo`, `train` and `curriculum`."""

from pathlib import Path

from ..run_folder import run_folder
from .command_options import add_command, add_data, add_training, positive, share


def add_commands(commands):
    _add_demo(commands)
    _add_train(commands)
    _add_curriculum(commands)


def _add_demo(commands):
    command = add_command(
        commands,
        "demo",
        _run_demo,
        "train a small model in a few minutes and write a report",
        "Make a small world of video files, run the whole curriculum on it, save the model, load it in a new process "
        "and write OUT/report.html with figures, pictures and sound.",
    )
    command.add_argument(
        "--out",
        type=Path,
        default=Path("runs/demo"),
        metavar="DIR",
        help="folder of the results, which replace those of an earlier demo",
    )
    command.add_argument("--videos", type=positive(int), default=480, metavar="N", help="video files to learn from")
    command.add_argument("--held-out", type=positive(int), default=128, metavar="N", help="video files to judge by")
    command.add_argument(
        "--minutes",
        type=positive(float),
        default=3.5,
        metavar="MIN",
        help="most time for training; decides the steps",
    )
    command.add_argument(
        "--steps", type=positive(int), metavar="N", help="optimiser steps (default: as many as fit in --minutes)"
    )
    command.add_argument("--seed", type=int, default=0, help="of everything random")


def _add_train(commands):
    command = add_command(
        commands,
        "train",
        _run_train,
        "train on random pairs of modalities",
        "Train on (source, target) pairs that cover all 16 combinations evenly; on generated videos unless --video-dir "
        "or --dataset is given.",
    )
    add_data(command.add_argument_group("data"), required=False)
    _add_model(command.add_argument_group("model"))
    group = command.add_argument_group("training")
    add_training(group, total_steps=1000)
    _add_targets(group)
    group.add_argument(
        "--pairs", nargs="+", metavar="SOURCE->TARGET", help="only these pairs, as in --pairs 'video->audio'"
    )


def _add_curriculum(commands):
    command = add_command(
        commands,
        "curriculum",
        _run_curriculum,
        "learn from a folder of videos in five phases",
        "Learn from videos in five phases: warm-up (reconstruction), cross-modal, temporal, grounding, joint. The "
        "five fractions are shares of the steps; they are divided by their sum.",
    )
    add_data(command.add_argument_group("data (one of --video-dir, --dataset, --synthetic)"), required=True)
    _add_model(command.add_argument_group("model"))
    group = command.add_argument_group("training")
    add_training(group, total_steps=100_000)
    _add_targets(group)
    for name, part, purpose in (
        ("warmup", 0.10, "phase 1: reconstruct video and audio"),
        ("crossmodal", 0.25, "phase 2: video and audio, single frame and audio, both ways"),
        ("temporal", 0.25, "phase 3: past half of a clip to its future half"),
        ("grounding", 0.15, "phase 4: video and audio to text; needs transcripts"),
        ("joint", 0.25, "phase 5: all pairs"),
    ):
        group.add_argument(f"--{name}-frac", type=share, default=part, metavar="SHARE", help=purpose)


def _add_model(group):
    group.add_argument("--preset", choices=("tiny", "base", "large"), default="base", help="sizes to begin with")
    group.add_argument(
        "--config", type=Path, metavar="JSON", help="file with settings of OmniLatentConfig, on top of the preset"
    )
    group.add_argument("--dim", type=positive(int), metavar="N", help="width (default: that of the preset)")
    group.add_argument("--layers", type=positive(int), metavar="N", help="layers (default: those of the preset)")
    group.add_argument("--heads", type=positive(int), metavar="N", help="heads (default: those of the preset)")


def _add_targets(group):
    group.add_argument(
        "--targets-per-step",
        type=positive(int),
        default=1,
        metavar="N",
        help="targets that share a source and a pass",
    )


def _run_demo(args):
    from ..demo import run_demo

    run_demo(args.out, args.videos, args.held_out, args.minutes, args.steps, args.seed)


def _run_train(args):
    from ..runs import train

    with run_folder(args.save_dir, args.resume):
        train(args)


def _run_curriculum(args):
    from ..runs import train_curriculum

    with run_folder(args.save_dir, args.resume):
        train_curriculum(args)
