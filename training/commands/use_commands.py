"""Using a trained OmniLatentModel: `convert` and `report`."""

from pathlib import Path

from .command_options import add_command, positive

MODALITIES = ("text", "audio", "image", "video")


def add_commands(commands):
    _add_convert(commands)
    _add_report(commands)


def _add_convert(commands):
    command = add_command(
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
    command.add_argument("--max-new-tokens", type=positive(int), default=256, metavar="N", help="most tokens of text")
    command.add_argument("--sound", action="store_true", help="with --to video: make its sound, too")


def _add_report(commands):
    command = add_command(
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
    command.add_argument("--clip-duration", type=positive(float), default=2.0, metavar="S", help="seconds of a clip")
    command.add_argument("--batch-size", type=positive(int), default=32, metavar="N", help="clips evaluated together")


def _run_convert(args):
    from ..convert import convert_file

    path = convert_file(args.source, args.to, args.model, args.out, args.max_new_tokens, args.sound)
    print(path)


def _run_report(args):
    from ..figures import describe_figures
    from ..report import write_report

    figures = write_report(args.model, args.video_dir, args.out, args.clip_duration, args.batch_size)
    print(f"The report is in {args.out}.\n{describe_figures(figures)}")
