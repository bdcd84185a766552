"""The command `omnilatent`. What each command does is imported when it runs, so that `--help` need not wait."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

MODALITIES = ("text", "audio", "image", "video")


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run one command.

    Args:
        argv: What follows the program's name; `None`: that of this process.

    Returns:
        0, or 1 for a mistake in what the command was given, told in one line. argparse itself leaves with 2.
    """
    args = make_parser().parse_args(argv)
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
    _add_demo(commands)
    _add_train(commands)
    _add_curriculum(commands)
    _add_align(commands)
    _add_convert(commands)
    _add_report(commands)
    for command in commands.choices.values():
        command.add_argument("--traceback", action="store_true", help="show where in the program an error arose")
    return parser


class _HelpWithDefaults(argparse.ArgumentDefaultsHelpFormatter):
    """Leaves out defaults that say nothing: None, and False of a switch."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def _add_command(commands, name, run, summary, description=None):
    command = commands.add_parser(
        name,
        help=summary,
        description=description or f"{summary[0].upper()}{summary[1:]}.",
        formatter_class=_HelpWithDefaults,
    )
    command.set_defaults(run=run)
    return command


def _add_demo(commands):
    command = _add_command(
        commands,
        "demo",
        _run_demo,
        "train a small model in a few minutes and write a report",
        "Make a small world of video files, run the whole curriculum on it, save the model, load it in a new process "
        "and write OUT/report.html with figures, pictures and sound.",
    )
    command.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="folder of the results")
    command.add_argument("--videos", type=_positive(int), default=480, metavar="N", help="video files to learn from")
    command.add_argument("--held-out", type=_positive(int), default=128, metavar="N", help="video files to judge by")
    command.add_argument(
        "--minutes",
        type=_positive(float),
        default=3.5,
        metavar="MIN",
        help="most time for training; decides the steps",
    )
    command.add_argument(
        "--steps", type=_positive(int), metavar="N", help="optimiser steps (default: as many as fit in --minutes)"
    )
    command.add_argument("--seed", type=int, default=0, help="of everything random")


def _add_train(commands):
    command = _add_command(
        commands,
        "train",
        _run_train,
        "train on random pairs of modalities",
        "Train on (source, target) pairs that cover all 16 combinations evenly; on generated videos unless --video-dir "
        "or --dataset is given.",
    )
    _add_data(command.add_argument_group("data"), required=False)
    _add_model(command.add_argument_group("model"))
    group = command.add_argument_group("training")
    _add_training(group, total_steps=1000)
    _add_targets(group)
    group.add_argument(
        "--pairs", nargs="+", metavar="SOURCE->TARGET", help="only these pairs, as in --pairs 'video->audio'"
    )


def _add_curriculum(commands):
    command = _add_command(
        commands,
        "curriculum",
        _run_curriculum,
        "learn from a folder of videos in five phases",
        "Learn from videos in five phases: warm-up (reconstruction), cross-modal, temporal, grounding, joint. The "
        "five fractions are shares of the steps; they are divided by their sum.",
    )
    _add_data(command.add_argument_group("data (one of --video-dir, --dataset, --synthetic)"), required=True)
    _add_model(command.add_argument_group("model"))
    group = command.add_argument_group("training")
    _add_training(group, total_steps=100_000)
    _add_targets(group)
    for name, share, purpose in (
        ("warmup", 0.10, "phase 1: reconstruct video and audio"),
        ("crossmodal", 0.25, "phase 2: video and audio, single frame and audio, both ways"),
        ("temporal", 0.25, "phase 3: past half of a clip to its future half"),
        ("grounding", 0.15, "phase 4: video and audio to text; needs transcripts"),
        ("joint", 0.25, "phase 5: all pairs"),
    ):
        group.add_argument(f"--{name}-frac", type=_share, default=share, metavar="SHARE", help=purpose)


def _add_data(group, required):
    source = group.add_mutually_exclusive_group(required=required)
    source.add_argument(
        "--video-dir", type=Path, metavar="DIR", help="folder of videos, searched with its sub-folders"
    )
    source.add_argument("--dataset", metavar="REPO", help="dataset with a video column on the Hub, read as a stream")
    source.add_argument("--synthetic", action="store_true", help="generated videos, written below --save-dir")
    group.add_argument("--clip-duration", type=_positive(float), default=2.0, metavar="S", help="seconds of a clip")
    group.add_argument(
        "--clip-stride", type=_positive(float), default=1.0, metavar="S", help="seconds from one clip to the next"
    )
    group.add_argument("--workers", type=_not_negative, default=2, metavar="N", help="processes that read videos")


def _add_model(group):
    group.add_argument("--preset", choices=("tiny", "base", "large"), default="base", help="sizes to begin with")
    group.add_argument(
        "--config", type=Path, metavar="JSON", help="file with settings of OmniLatentConfig, on top of the preset"
    )
    group.add_argument("--dim", type=_positive(int), metavar="N", help="width (default: that of the preset)")
    group.add_argument("--layers", type=_positive(int), metavar="N", help="layers (default: those of the preset)")
    group.add_argument("--heads", type=_positive(int), metavar="N", help="heads (default: those of the preset)")


def _add_targets(group):
    group.add_argument(
        "--targets-per-step",
        type=_positive(int),
        default=1,
        metavar="N",
        help="targets that share a source and a pass",
    )


def _add_training(group, total_steps):
    group.add_argument(
        "--total-steps", "--steps", type=_positive(int), default=total_steps, metavar="N", help="optimiser steps"
    )
    group.add_argument(
        "--batch-size", type=_positive(int), default=4, metavar="N", help="clips of a step, per process"
    )
    group.add_argument("--lr", type=_positive(float), default=3e-4, metavar="RATE", help="learning rate of AdamW")
    group.add_argument("--seed", type=int, default=0, help="of weights, pairs and data")
    group.add_argument("--no-amp", action="store_true", help="float32 also where the GPU can do bfloat16")
    group.add_argument("--cpu", action="store_true", help="leave the GPU alone")
    group.add_argument("--log-interval", type=_positive(int), default=10, metavar="N", help="steps between log lines")
    group.add_argument(
        "--save-interval", type=_positive(int), default=1000, metavar="N", help="steps between checkpoints"
    )
    group.add_argument(
        "--save-dir",
        type=Path,
        default=Path("checkpoints"),
        metavar="DIR",
        help="folder of the checkpoints, the log, and the model at the end",
    )
    group.add_argument(
        "--resume", metavar="PATH", help="checkpoint to go on from; 'auto': the newest valid one, if any"
    )
    group.add_argument("--push-to-hub", metavar="REPO", help="repository that the trained model is uploaded to")


def _add_align(commands):
    command = _add_command(
        commands,
        "align",
        _run_align,
        "align what is seen and what is heard in videos",
        "Train an aligner of a vision and an audio tower on videos with sound, and judge it on held-out ones by "
        "retrieval and by localisation in time.",
    )
    data = command.add_argument_group("data (one of --video-dir, --dataset, --synthetic)")
    _add_data(data, required=True)
    data.add_argument("--held-out-dir", type=Path, metavar="DIR", help="folder of videos to judge by")
    data.add_argument(
        "--held-out", type=_share, default=0.1, metavar="SHARE", help="of the videos, without --held-out-dir"
    )
    data.add_argument("--fps", type=_positive(float), default=8.0, metavar="N", help="frames per second")
    model = command.add_argument_group("model")
    model.add_argument("--vision-tower", metavar="NAME", help="model on the Hub, or folder (default: a small new one)")
    model.add_argument("--audio-tower", metavar="NAME", help="model on the Hub, or folder (default: a small new one)")
    model.add_argument("--train-towers", action="store_true", help="train the named towers, which else stay frozen")
    model.add_argument("--dim", type=_positive(int), default=192, metavar="N", help="width, also of new towers")
    model.add_argument("--layers", type=_positive(int), default=4, metavar="N", help="layers of new towers")
    model.add_argument(
        "--video-size", type=_positive(int), default=112, metavar="N", help="pixels per side, for new towers"
    )
    _add_training(command.add_argument_group("training"), total_steps=1000)
    command.set_defaults(batch_size=32, lr=1e-3)


def _add_convert(commands):
    command = _add_command(
        commands,
        "convert",
        _run_convert,
        "turn a file into one of another modality",
        "Turn a text, sound, picture or video file into a file of another modality, or of its own.",
    )
    command.add_argument("source", type=Path, metavar="SRC", help=".txt, .wav, .mp3, .flac, .png, .jpg, .mp4, ...")
    command.add_argument("--to", choices=MODALITIES, required=True, help="what to make")
    command.add_argument("--model", required=True, metavar="DIR", help="trained model: a folder or a repository")
    command.add_argument("--out", type=Path, metavar="FILE", help="where to (default: SRC.MODALITY.EXT beside SRC)")
    command.add_argument("--max-new-tokens", type=_positive(int), default=256, metavar="N", help="most tokens of text")
    command.add_argument("--sound", action="store_true", help="with --to video: make its sound, too")


def _add_report(commands):
    command = _add_command(
        commands,
        "report",
        _run_report,
        "judge a trained model on held-out videos",
        "Write a page with what a trained model does on videos that it has not seen: figures against a control whose "
        "sources are shuffled, retrieval, pictures and sound.",
    )
    command.add_argument("--model", required=True, metavar="DIR", help="trained model: a folder or a repository")
    command.add_argument("--video-dir", type=Path, required=True, metavar="DIR", help="folder of held-out videos")
    command.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE", help="page to write")
    command.add_argument("--clip-duration", type=_positive(float), default=2.0, metavar="S", help="seconds of a clip")
    command.add_argument("--batch-size", type=_positive(int), default=32, metavar="N", help="clips evaluated together")


def _run_demo(args):
    from .demo import run_demo

    run_demo(args.out, args.videos, args.held_out, args.minutes, args.steps, args.seed)


def _run_train(args):
    from .runs import train

    train(args)


def _run_curriculum(args):
    from .runs import train_curriculum

    train_curriculum(args)


def _run_align(args):
    from .align_runs import align

    align(args)


def _run_convert(args):
    from .convert import convert_file

    path = convert_file(args.source, args.to, args.model, args.out, args.max_new_tokens, args.sound)
    print(path)


def _run_report(args):
    from .figures import describe_figures
    from .report import write_report

    figures = write_report(args.model, args.video_dir, args.out, args.clip_duration, args.batch_size)
    print(f"The report is in {args.out}.\n{describe_figures(figures)}")


def _positive(kind):
    def parse(text):
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
        return value

    parse.__name__ = kind.__name__  # argparse names it where the text is no number
    return parse


def _not_negative(text):
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, got {text}")
    return value


def _share(text):
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"is a share of the steps, from 0 to 1; got {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())
