"""Images: `classify` trains a classifier, `visualize` shows what it looks at."""

from pathlib import Path

from ..run_folder import run_folder
from .command_options import add_command, add_training, not_negative, positive, share


def add_commands(commands):
    _add_classify(commands)
    _add_visualize(commands)


def _add_classify(commands):
    command = add_command(
        commands,
        "classify",
        _run_classify,
        "train a classifier of images",
        "Train a vision transformer with relative position bias, or any image classifier of transformers, on images "
        "with labels: a folder of a folder for each class, or any dataset of `datasets`. The checkpoint that is best "
        "on held-out images becomes the model.",
    )
    data = command.add_argument_group("data")
    data.add_argument(
        "--data", default="imagefolder", metavar="NAME", help="dataset on the Hub, builder of `datasets`, or folder"
    )
    data.add_argument("--data-dir", type=Path, metavar="DIR", help="folder of images, for imagefolder")
    data.add_argument("--data-files", nargs="+", metavar="FILE", help="files, for builders like parquet")
    data.add_argument("--data-config", metavar="NAME", help="configuration of the dataset, if it has several")
    data.add_argument(
        "--streaming",
        action="store_true",
        help="read as it comes; needs --total-steps, and a split to judge by, as nothing is held out",
    )
    data.add_argument("--train-split", default="train", metavar="NAME", help="split to learn from")
    data.add_argument("--val-split", metavar="NAME", help="split to judge by (default: the one that looks like it)")
    data.add_argument(
        "--held-out", type=share, default=0.1, metavar="SHARE", help="of the images, without such a split"
    )
    data.add_argument("--image-column", metavar="NAME", help="column of the images")
    data.add_argument("--label-column", metavar="NAME", help="column of the labels")
    data.add_argument("--labels", nargs="+", metavar="NAME", help="all labels, where the dataset does not tell them")
    data.add_argument(
        "--shuffle-buffer", type=positive(int), default=1000, metavar="N", help="images that a stream draws from"
    )
    data.add_argument("--workers", type=not_negative, default=2, metavar="N", help="processes that read images")
    data.add_argument(
        "--max-bad-fraction", type=share, default=0.5, metavar="SHARE", help="of broken images that ends the run"
    )
    model = command.add_argument_group("model")
    model.add_argument(
        "--model", metavar="NAME", help="model on the Hub, or folder, to go on from (default: a new ViT)"
    )
    model.add_argument("--preset", choices=("tiny", "small", "base"), help="sizes of a new ViT (default: small)")
    model.add_argument("--dim", type=positive(int), metavar="N", help="width (default: that of the preset)")
    model.add_argument("--layers", type=positive(int), metavar="N", help="layers (default: those of the preset)")
    model.add_argument("--heads", type=positive(int), metavar="N", help="heads (default: those of the preset)")
    model.add_argument(
        "--patch-size", type=positive(int), metavar="N", help="pixels per side of a patch (default: 16)"
    )
    model.add_argument(
        "--image-size", type=positive(int), metavar="N", help="pixels per side (default: those of the model, or 224)"
    )
    model.add_argument(
        "--position-embedding",
        choices=("relative", "absolute", "both", "none"),
        help="how a new ViT knows places (default: relative)",
    )
    model.add_argument(
        "--drop-path",
        type=share,
        metavar="SHARE",
        help="of samples that skip a new ViT's last layer (default: 0.1)",
    )
    augmentation = command.add_argument_group("augmentation")
    augmentation.add_argument(
        "--min-crop", type=share, default=0.25, metavar="SHARE", help="smallest part of an image that is cut out"
    )
    augmentation.add_argument("--no-flip", action="store_true", help="do not mirror images")
    augmentation.add_argument("--randaugment", type=not_negative, default=9, metavar="N", help="strength, 0 to 30")
    augmentation.add_argument("--mixup", type=float, default=0.0, metavar="ALPHA", help="blend pairs of images")
    augmentation.add_argument("--cutmix", type=float, default=0.0, metavar="ALPHA", help="paste parts of other images")
    augmentation.add_argument(
        "--label-smoothing", type=share, default=0.0, metavar="SHARE", help="of a label spread over all labels"
    )
    training = command.add_argument_group(
        "training (for --epochs, or --total-steps; a checkpoint and an evaluation each epoch, or --save-interval)"
    )
    training.add_argument("--epochs", type=positive(float), default=10.0, metavar="N", help="passes over the images")
    training.add_argument("--weight-decay", type=float, default=0.05, metavar="RATE", help="of AdamW")
    add_training(training, total_steps=None, samples="images")
    command.set_defaults(batch_size=64, lr=1e-3, save_interval=None, save_dir=Path("runs/classify"))


def _add_visualize(commands):
    command = add_command(
        commands,
        "visualize",
        _run_visualize,
        "draw what a classifier looks at in an image",
        "Classify an image and draw attention rollout over it, the attention weights of each layer, and the tables of "
        "relative position biases.",
    )
    command.add_argument("--model", required=True, metavar="DIR", help="vision transformer: a folder or a repository")
    command.add_argument("--image", type=Path, required=True, metavar="FILE", help="image to look at")
    command.add_argument(
        "--out", type=Path, default=Path("pictures"), metavar="DIR", help="folder that the pictures are written to"
    )


def _run_classify(args):
    from ..finetuning.classification_runs import classify

    with run_folder(args.save_dir, args.resume):
        classify(args)


def _run_visualize(args):
    from ..model_pictures import visualize_model

    labels, written = visualize_model(args.model, args.image, args.out)
    told = ", ".join(f"{label} {probability:.1%}" for label, probability in labels)
    print(told or "The model has no trained head: what it answers is left out.")
    print(f"{len(written)} pictures are in {args.out}, {written[0].name} first.")
