"""Multimodal tasks: `sample-data` and `finetune`."""

import argparse
from pathlib import Path

from ..run_folder import LOG_FILE, run_folder
from .command_options import add_command, not_negative, positive, share

TASK_NAMES = ("retrieval", "vqa", "written-vqa", "captioning", "classification", "drawing")


def add_commands(commands):
    _add_sample_data(commands)
    _add_finetune(commands)


def _add_sample_data(commands):
    command = add_command(
        commands,
        "sample-data",
        _run_sample_data,
        "draw pictures with captions, questions and labels",
        "Draw pictures of shapes, numbers, places and digits, and write OUT/train.json and OUT/val.json for the "
        "multimodal tasks. What val.json shows is never shown in train.json.",
    )
    command.add_argument("--out", type=Path, default=Path("data/sample"), metavar="DIR", help="folder to write")
    command.add_argument("--train", type=positive(int), default=4000, metavar="N", help="pictures to learn from")
    command.add_argument("--val", type=positive(int), default=350, metavar="N", help="pictures to judge by")
    command.add_argument("--size", type=positive(int), default=96, metavar="N", help="pixels per side")
    command.add_argument("--seed", type=int, default=0, help="of everything random")


def _add_finetune(commands):
    command = add_command(
        commands,
        "finetune",
        _run_finetune,
        "train a model of pictures and words for one task",
        "Train a model on pictures with captions, questions, or texts with labels, and judge it on held-out ones. The "
        "checkpoint that is best there becomes the model. Options may be written with underscores.",
    )
    add_finetune_options(command)


def add_finetune_options(command: argparse.ArgumentParser) -> None:
    """The options of `omnilatent finetune`, for any parser."""

    def add(group, name, **settings):
        names = dict.fromkeys((name, f"--{name[2:].replace('-', '_')}"))
        group.add_argument(*names, **settings)

    add(command, "--task", type=_task_name, required=True, metavar="TASK", help=f"one of {', '.join(TASK_NAMES)}")
    data = command.add_argument_group(
        "data (JSON files; folders of datasets.save_to_disk; or NAME:SPLIT of the Hub or of a folder)"
    )
    add(data, "--train-data", required=True, metavar="DATA", help="samples to learn from")
    add(data, "--val-data", required=True, metavar="DATA", help="samples to judge by")
    add(
        data,
        "--columns",
        type=_columns,
        metavar="ROLE=NAME,...",
        help="columns that are called otherwise, as in image=picture,caption=title",
    )
    add(data, "--image-folder", type=Path, metavar="DIR", help="of relative paths (default: that of the JSON file)")
    add(
        data, "--classes", type=Path, metavar="FILE", help="answers or labels, one a line (default: those in the data)"
    )
    add(data, "--num-classes", type=positive(int), metavar="N", help="keep so many of the commonest answers or labels")
    add(data, "--streaming", action="store_true", help="read datasets as they come; needs --max-steps")
    add(
        data,
        "--shuffle-buffer",
        type=positive(int),
        default=1000,
        metavar="N",
        help="samples that a stream draws from",
    )
    add(data, "--max-bad-fraction", type=share, default=0.5, metavar="SHARE", help="of bad samples that ends the run")
    add(data, "--workers", type=not_negative, default=0, metavar="N", help="processes that read samples")
    model = command.add_argument_group("model")
    add(
        model,
        "--config",
        metavar="PRESET",
        help="preset or JSON file of a new model (default: tiny_text_image_model)",
    )
    add(model, "--model", metavar="DIR", help="trained model to go on from, instead of a new one")
    add(
        model,
        "--tokenizer",
        metavar="NAME",
        help="of a new model: bytes; words, those of the training texts; or a tokenizer's folder or name on the Hub "
        "(default: bytes)",
    )
    add(model, "--max-length", type=positive(int), metavar="N", help="most tokens of a text (default: the model's)")
    add(model, "--num-beams", type=positive(int), default=1, metavar="N", help="beams of written texts")
    training = command.add_argument_group("training")
    add(
        training,
        "--output-dir",
        type=Path,
        default=Path("outputs"),
        metavar="DIR",
        help=f"folder of the checkpoints, of the model at the end, and of {LOG_FILE}, which names bad samples",
    )
    add(training, "--batch-size", type=positive(int), default=32, metavar="N", help="samples of a step, per process")
    add(training, "--eval-batch-size", type=positive(int), metavar="N", help="(default: --batch-size)")
    add(training, "--accumulate", type=positive(int), default=1, metavar="N", help="batches whose gradients are added")
    add(training, "--num-epochs", type=positive(float), default=10.0, metavar="N", help="passes over the data")
    add(training, "--max-steps", type=positive(int), metavar="N", help="optimiser steps, instead of --num-epochs")
    add(training, "--learning-rate", type=positive(float), default=5e-5, metavar="RATE", help="of AdamW")
    add(training, "--weight-decay", type=float, default=0.05, metavar="RATE", help="of AdamW")
    add(training, "--warmup", type=share, default=0.05, metavar="SHARE", help="of the steps, before the cosine")
    add(
        training, "--eval-steps", type=positive(int), metavar="N", help="steps between evaluations (default: an epoch)"
    )
    add(training, "--patience", type=positive(int), metavar="N", help="stop after so many evaluations without a gain")
    add(training, "--log-interval", type=positive(int), default=10, metavar="N", help="steps between log lines")
    add(training, "--resume", metavar="PATH", help="checkpoint to go on from; 'auto': the newest valid one, if any")
    add(training, "--seed", type=int, default=0, help="of weights and data")
    add(training, "--no-amp", action="store_true", help="float32 also where the GPU can do bfloat16")
    add(training, "--cpu", action="store_true", help="leave the GPU alone")
    add(training, "--push-to-hub", metavar="REPO", help="repository that the trained model is uploaded to")


def _task_name(text):
    name = text.replace("_", "-")
    if name not in TASK_NAMES:
        raise argparse.ArgumentTypeError(f"no task {text!r}: expected one of {', '.join(TASK_NAMES)}")
    return name


def _columns(text):
    pairs = [pair.split("=") for pair in text.split(",")]
    if not all(len(pair) == 2 and all(pair) for pair in pairs):
        raise argparse.ArgumentTypeError(f"expected ROLE=NAME,ROLE=NAME, got {text!r}")
    return dict(pairs)


def _run_finetune(args):
    from ..finetuning.finetune_runs import finetune

    with run_folder(args.output_dir, args.resume):
        finetune(args)


def _run_sample_data(args):
    from ..data import make_sample_data

    paths = make_sample_data(args.out, args.train, args.val, args.size, args.seed)
    print("\n".join(map(str, paths.values())))
