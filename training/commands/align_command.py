"""Training an aligner: `align`."""

from pathlib import Path

from ..run_folder import run_folder
from .command_options import add_command, add_data, add_training, positive, share


def add_commands(commands):
    command = add_command(
        commands,
        "align",
        _run_align,
        "align what is seen and what is heard in videos",
        "Train an aligner of a vision and an audio tower on videos with sound, and judge it on held-out ones by "
        "retrieval and by localisation in time.",
    )
    data = command.add_argument_group("data (one of --video-dir, --dataset, --synthetic)")
    add_data(data, required=True)
    data.add_argument("--held-out-dir", type=Path, metavar="DIR", help="folder of videos to judge by")
    data.add_argument(
        "--held-out", type=share, default=0.1, metavar="SHARE", help="of the videos, without --held-out-dir"
    )
    data.add_argument("--fps", type=positive(float), default=8.0, metavar="N", help="frames per second")
    model = command.add_argument_group("model")
    model.add_argument("--vision-tower", metavar="NAME", help="model on the Hub, or folder (default: a small new one)")
    model.add_argument("--audio-tower", metavar="NAME", help="model on the Hub, or folder (default: a small new one)")
    model.add_argument("--train-towers", action="store_true", help="train the named towers, which else stay frozen")
    model.add_argument("--dim", type=positive(int), default=192, metavar="N", help="width, also of new towers")
    model.add_argument("--layers", type=positive(int), metavar="N", help="layers of new towers (default: 4)")
    model.add_argument(
        "--video-size", type=positive(int), metavar="N", help="pixels per side, for new towers (default: 112)"
    )
    add_training(command.add_argument_group("training"), total_steps=1000)
    command.set_defaults(batch_size=32, lr=1e-3)


def _run_align(args):
    from ..align_runs import align

    with run_folder(args.save_dir, args.resume):
        align(args)
