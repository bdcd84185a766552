"""What commands share: how one is added, the values of options, and groups of options."""

import argparse
from pathlib import Path

from ..run_folder import LOG_FILE


class HelpWithDefaults(argparse.ArgumentDefaultsHelpFormatter):
    """Leaves out defaults that say nothing: None, and False of a switch."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def add_command(commands, name, run, summary, description=None):
    command = commands.add_parser(
        name,
        help=summary,
        description=description or f"{summary[0].upper()}{summary[1:]}.",
        formatter_class=HelpWithDefaults,
    )
    command.set_defaults(run=run)
    return command


def add_data(group, required):
    source = group.add_mutually_exclusive_group(required=required)
    source.add_argument(
        "--video-dir", type=Path, metavar="DIR", help="folder of videos, searched with its sub-folders"
    )
    source.add_argument("--dataset", metavar="REPO", help="dataset with a video column on the Hub, read as a stream")
    source.add_argument("--synthetic", action="store_true", help="generated videos, written below --save-dir")
    group.add_argument("--clip-duration", type=positive(float), default=2.0, metavar="S", help="seconds of a clip")
    group.add_argument(
        "--clip-stride", type=positive(float), default=1.0, metavar="S", help="seconds from one clip to the next"
    )
    group.add_argument("--workers", type=not_negative, default=2, metavar="N", help="processes that read videos")


def add_training(group, total_steps, samples="clips"):
    group.add_argument(
        "--total-steps", "--steps", type=positive(int), default=total_steps, metavar="N", help="optimiser steps"
    )
    group.add_argument(
        "--batch-size", type=positive(int), default=4, metavar="N", help=f"{samples} of a step, per process"
    )
    group.add_argument("--lr", type=positive(float), default=3e-4, metavar="RATE", help="learning rate of AdamW")
    group.add_argument("--seed", type=int, default=0, help="of everything random")
    group.add_argument("--no-amp", action="store_true", help="float32 also where the GPU can do bfloat16")
    group.add_argument("--cpu", action="store_true", help="leave the GPU alone")
    group.add_argument("--log-interval", type=positive(int), default=10, metavar="N", help="steps between log lines")
    group.add_argument(
        "--save-interval", type=positive(int), default=1000, metavar="N", help="steps between checkpoints"
    )
    group.add_argument(
        "--save-dir",
        type=Path,
        default=Path("checkpoints"),
        metavar="DIR",
        help=f"folder of the checkpoints, of the model at the end, and of {LOG_FILE}, which names what could not be read",
    )
    group.add_argument(
        "--resume", metavar="PATH", help="checkpoint to go on from; 'auto': the newest valid one, if any"
    )
    group.add_argument("--push-to-hub", metavar="REPO", help="repository that the trained model is uploaded to")


def positive(kind):
    def parse(text):
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
        return value

    parse.__name__ = kind.__name__  # argparse names it where the text is no number
    return parse


def not_negative(text):
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, got {text}")
    return value


def share(text):
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a share, from 0 to 1; got {text}")
    return value
