"""Create a model of text and images from a configuration file, and let it read a batch.

    python hub_examples/create_model.py --config configs/base_text_image_model.json

Without arguments it makes the tiny model. The file may be your own, or the name of a preset that comes with omnilatent.
"""

import argparse

import torch

from omnilatent import create_model
from omnilatent.modeling_omni.multimodal.model_factory import TASKS


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="tiny_text_image_model.json", help="a JSON file or the name of a preset")
    parser.add_argument("--task", choices=[task for task in TASKS if task], help="whose head the model gets")
    args = parser.parse_args(argv)

    model = create_model(args.config, task=args.task).eval()
    print(f"{type(model).__name__}: {sum(p.numel() for p in model.parameters()):,} parameters")
    if args.task is not None:
        return

    batch, text_tokens, image_tokens = 2, 12, 20
    inputs = {
        "text_inputs": torch.randint(3, 259, (batch, text_tokens)),  # bytes of text, see OmniLatentTokenizer
        "text_attention_mask": torch.ones(batch, text_tokens),
    }
    image = model.config.image_config
    if image.feature_size is not None:
        inputs["image_features"] = torch.randn(batch, image_tokens, image.feature_size)
        inputs["image_attention_mask"] = torch.ones(batch, image_tokens)
    else:
        inputs["pixel_values"] = torch.randn(batch, image.num_channels, image.image_size, image.image_size)
    with torch.no_grad():
        outputs = model(**inputs)
    print(f"fused tokens {tuple(outputs.last_hidden_state.shape)}, one vector {tuple(outputs.pooler_output.shape)}")


if __name__ == "__main__":
    main()
