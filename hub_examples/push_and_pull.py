"""Share a model and its processor on the Hub, and get them back.

    hf auth login
    python hub_examples/push_and_pull.py --model checkpoints --repo-id me/my-omnilatent

HF_ENDPOINT chooses another Hub than huggingface.co. Without --repo-id nothing is uploaded: a folder stands in for the
repository.
"""

import argparse

import torch

from omnilatent import OmniLatentConfig, OmniLatentModel, OmniLatentProcessor


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a trained model (default: a tiny untrained model)")
    parser.add_argument("--repo-id", help="repository to create or update, as in me/my-omnilatent")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--folder", default="runs/push_and_pull", help="stands in for the repository")
    args = parser.parse_args(argv)
    if args.model is None:
        model = OmniLatentModel(OmniLatentConfig.tiny())
        processor = OmniLatentProcessor.from_config(model.config)
    else:
        model = OmniLatentModel.from_pretrained(args.model)
        processor = OmniLatentProcessor.from_pretrained(args.model)

    if args.repo_id is None:
        place = args.folder
        model.save_pretrained(place)
        processor.save_pretrained(place)
    else:
        place = args.repo_id
        model.push_to_hub(place, private=args.private)
        processor.push_to_hub(place)

    pulled = OmniLatentModel.from_pretrained(place)
    text = "What goes out comes back."
    ids = OmniLatentProcessor.from_pretrained(place).tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        difference = (model.eval().embed("text", ids) - pulled.embed("text", ids)).abs().max()
    print(
        f"{place}: {pulled.num_parameters()} parameters; its embeddings differ by {difference:.0e} from those before"
    )


if __name__ == "__main__":
    main()
