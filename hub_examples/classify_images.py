"""Fine-tune a vision transformer with relative position bias on a folder of images, a folder in it for each class.

    python hub_examples/classify_images.py --data-dir my_images --model me/my-vit --steps 1000

Without --data-dir it draws a folder of its own, without --model it begins with a small new ViT. `omnilatent classify`
does the same with more options.
"""

import argparse
import random
from pathlib import Path

from PIL import Image, ImageDraw
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    TrainingArguments,
    ViTImageProcessor,
    pipeline,
)

from omnilatent import RelPosViTConfig, RelPosViTForImageClassification
from omnilatent.training.finetuning import (
    EvaluationTransform,
    ImageClassificationTrainer,
    ImageCollator,
    LabelledImages,
    TrainingTransform,
    open_image_tables,
)

COLOURS = {"apple": "crimson", "leaf": "limegreen", "plum": "darkviolet"}


def draw_folder(folder, count=40):
    """Round things of three colours and all sizes, a folder for each."""
    generator = random.Random(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture = Image.new("RGB", (48, 40), (generator.randrange(80),) * 3)
            x, y, size = generator.randrange(24), generator.randrange(16), generator.randrange(12, 24)
            ImageDraw.Draw(picture).ellipse((x, y, x + size, y + size), fill=colour)
            picture.save(folder / name / f"{number}.png")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder of a folder for each class (default: a drawn one)")
    parser.add_argument("--model", help="folder or repository (default: a small new ViT)")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--out", type=Path, default=Path("runs/classify_images"))
    args = parser.parse_args(argv)
    if args.data_dir is None:
        args.data_dir = args.out / "images"
        draw_folder(args.data_dir)

    train, held_out = open_image_tables("imagefolder", data_dir=args.data_dir, held_out=0.2)
    names = dict(enumerate(train.classes))
    labels = {"id2label": names, "label2id": {name: number for number, name in names.items()}}
    if args.model is None:
        sizes = {
            "hidden_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": 32,
            "patch_size": 8,
        }
        model = RelPosViTForImageClassification(RelPosViTConfig(**sizes, **labels))
        processor = ViTImageProcessor(size={"height": 32, "width": 32})
    else:
        model = AutoModelForImageClassification.from_pretrained(args.model, ignore_mismatched_sizes=True, **labels)
        processor = AutoImageProcessor.from_pretrained(args.model)

    trainer = ImageClassificationTrainer(
        model,
        TrainingArguments(
            str(args.out),
            max_steps=args.steps,
            learning_rate=args.lr,
            per_device_train_batch_size=16,
            remove_unused_columns=False,
            report_to="none",
        ),
        data_collator=ImageCollator(len(names), mixup=0.1),
        train_dataset=LabelledImages(train, TrainingTransform(processor, min_crop=0.5), seed=0),
        eval_dataset=LabelledImages(held_out, EvaluationTransform(processor)).without_broken()[0],
        processing_class=processor,
    )
    trainer.train(resume_from_checkpoint="auto")  # goes on where an interrupted run stood
    trainer.save_model()
    print(f"accuracy on held-out images: {trainer.evaluate()['eval_accuracy']:.3f}")

    picture = next(iter(sorted(args.data_dir.rglob("*.png"))))
    best = pipeline("image-classification", str(args.out))(str(picture))[0]
    print(f"{picture}: {best['label']} ({best['score']:.2f})")


if __name__ == "__main__":
    main()
