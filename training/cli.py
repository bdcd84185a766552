"""The command `omnilatent`. What each command does is imported when it runs, so that `--help` need not wait."""

import argparse
import sys
from collections.abc import Sequence

from .. import _register
from .commands import (
    align_command,
    classify_command,
    deployment_commands,
    task_commands,
    train_commands,
    use_commands,
)

# in the order of `omnilatent --help`
FAMILIES = (train_commands, align_command, classify_command, task_commands, use_commands, deployment_commands)


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run one command.

    Args:
        argv: What follows the program's name; `None`: that of this process.

    Returns:
        0, or 1 for a mistake in what the command was given, told in one line. argparse itself leaves with 2.
    """
    args = make_parser().parse_args(argv)
    _register()  # the program omits that at its start
    try:
        args.run(args)
    except (ValueError, OSError) as error:
        if args.traceback:
            raise
        print(f"omnilatent {args.command}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"omnilatent {args.command}: interrupted", file=sys.stderr)
        return 130
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; `run` in what it parses is the function to call with it."""
    parser = argparse.ArgumentParser(
        prog="omnilatent", description="Train, try and use any-to-any models of text, audio, images and video."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for family in FAMILIES:
        family.add_commands(commands)
    for command in commands.choices.values():
        command.add_argument("--traceback", action="store_true", help="show where in the program an error arose")
    return parser


if __name__ == "__main__":
    sys.exit(main())
