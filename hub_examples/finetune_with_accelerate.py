"""The same without a Trainer: a plain loop with Accelerate, on one process or several.

    accelerate launch hub_examples/finetune_with_accelerate.py --model me/my-omnilatent --steps 1000

Each step reads a picture and writes its caption, and the other way round in the same loop.
"""

import argparse

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch.utils.data import DataLoader

from omnilatent import OmniLatentConfig, OmniLatentModel
from omnilatent.training.data import collate_multimodal


def make_dataset(config, size=16):
    """Grey pictures, dark to light, and how light they are in bytes of text (byte b is token 3 + b)."""
    items = []
    for number in range(size):
        grey = number / (size - 1)
        text = torch.tensor([3 + byte for byte in f"{100 * grey:.0f} %".encode()])
        items.append({"image": torch.full((3, config.image_size, config.image_size), 2 * grey - 1), "text": text})
    return items


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or repository (default: a tiny untrained model)")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--out", default="runs/finetune_with_accelerate")
    args = parser.parse_args(argv)
    model = (
        OmniLatentModel(OmniLatentConfig.tiny()) if args.model is None else OmniLatentModel.from_pretrained(args.model)
    )
    config = model.config
    # a step uses the parameters of its own modalities only
    accelerator = Accelerator(kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)])
    loader = DataLoader(make_dataset(config), batch_size=4, shuffle=True, collate_fn=collate_multimodal)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

    model.train()
    step = 0
    while step < args.steps:
        for batch in loader:
            source, target = ("image", "text") if step % 2 == 0 else ("text", "image")
            loss = model(source, batch[source], target, target=batch[target]).loss
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            accelerator.print(f"step {step}: {source} -> {target}, loss {loss.item():.3f}")
            if step == args.steps:
                break

    accelerator.wait_for_everyone()
    accelerator.unwrap_model(model).save_pretrained(
        args.out, is_main_process=accelerator.is_main_process, save_function=accelerator.save
    )


if __name__ == "__main__":
    main()
