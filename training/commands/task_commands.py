"""Multimodal tasks: `sample-data`."""

from pathlib import Path

from .command_options import add_command, positive


def add_commands(commands):
    _add_sample_data(commands)


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
    command.add_argument("--size", type=positive(int), default=64, metavar="N", help="pixels per side")
    command.add_argument("--seed", type=int, default=0, help="of everything random")


def _run_sample_data(args):
    from ..data import make_sample_data

    paths = make_sample_data(args.out, args.train, args.val, args.size, args.seed)
    print("\n".join(map(str, paths.values())))
