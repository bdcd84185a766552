"""Fine-tune a model on pictures with captions of one's own, with the Trainer.

    python hub_examples/finetune_with_trainer.py --model me/my-omnilatent --steps 1000

Without --model it begins with a tiny untrained one. The data is any dataset of dicts with "text", "audio", "image" or
"video"; here a few coloured pictures made on the spot.
"""

import argparse

import torch
from PIL import Image

from omnilatent import OmniLatentConfig, OmniLatentModel, OmniLatentProcessor
from omnilatent.training import OmniLatentTrainer, OmniLatentTrainingArguments

COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "white", "black")


def make_dataset(processor):
    """Items for the Trainer: what the processor makes of a picture, and the ids of its caption."""
    items = []
    for colour in COLOURS:
        picture = Image.new("RGB", (48, 48), colour)
        pixel_values = processor.image_processor(picture, return_tensors="pt")["pixel_values"][0]
        text = torch.tensor(processor.tokenizer(f"It is {colour}.")["input_ids"])
        items.append({"image": pixel_values, "text": text})
    return items


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or repository (default: a tiny untrained model)")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--out", default="runs/finetune_with_trainer")
    args = parser.parse_args(argv)
    if args.model is None:
        model = OmniLatentModel(OmniLatentConfig.tiny(text_vocab_size=259))
        processor = OmniLatentProcessor.from_config(model.config)
    else:
        model = OmniLatentModel.from_pretrained(args.model)
        processor = OmniLatentProcessor.from_pretrained(args.model)

    trainer = OmniLatentTrainer(
        model,
        OmniLatentTrainingArguments(
            args.out,
            max_steps=args.steps,
            learning_rate=args.lr,
            per_device_train_batch_size=4,
            train_pairs=["image->text", "text->image"],
        ),
        train_dataset=make_dataset(processor),
        processing_class=processor,
    )
    trainer.train()
    trainer.save_model()

    inputs = processor(images=Image.new("RGB", (48, 48), "blue"), return_tensors="pt").to(model.device)
    print("A blue picture:", processor.decode_text(model.generate(**inputs, max_new_tokens=20)[0]))


if __name__ == "__main__":
    main()
