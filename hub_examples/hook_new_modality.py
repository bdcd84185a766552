"""A new modality: a model that knows no depth is given it by a small encoder and a hook; its own weights stay.

    python hub_examples/hook_new_modality.py

A depth map is no input that OmniLatent has. An encoder makes hook states of it, one for each patch, and these join the
frozen model's attention. Encoder and hook learn to let the model say where the nearest thing is, in text, on depth maps
that were not trained on.
"""

import argparse
import hashlib

import torch
from torch import nn

from omnilatent import LatentNeuralHook, OmniLatentConfig, OmniLatentModel
from omnilatent.configuration.layout import lay_out

PIXELS, PATCH = 8, 4
ANSWERS = b"NESW"  # the quarter of the map in which the nearest thing is


class DepthEncoder(nn.Module):
    """Depth maps (B, P, P) as hook states (B, patches, D)."""

    def __init__(self, hidden_size):
        super().__init__()
        self.patches = nn.Conv2d(1, hidden_size, PATCH, stride=PATCH)
        self.places = nn.Parameter(torch.randn((PIXELS // PATCH) ** 2, hidden_size))
        self.mix = nn.Sequential(nn.LayerNorm(hidden_size), nn.Linear(hidden_size, hidden_size), nn.GELU())
        self.out = nn.Linear(hidden_size, hidden_size)

    def forward(self, depth):
        states = self.patches(depth.unsqueeze(1)).flatten(2).transpose(1, 2) + self.places
        return states + self.out(self.mix(states))


def make_maps(count):
    """Depths in metres of a far wall with a near thing in one of four quarters, and the text that names it."""
    depth = 4.0 + 0.3 * torch.randn(count, PIXELS, PIXELS)
    quarter = torch.randint(len(ANSWERS), (count,))
    half = PIXELS // 2
    for row, which in enumerate(quarter.tolist()):
        top = half * (which // 2) + torch.randint(half - 1, (1,)).item()
        left = half * (which % 2) + torch.randint(half - 1, (1,)).item()
        depth[row, top : top + 2, left : left + 2] = 0.5 + torch.rand(1)
    text = torch.tensor([3 + byte for byte in ANSWERS])[quarter]  # byte b is token 3 + b
    return depth / 4.0 - 1.0, text


def fingerprint(model):
    """SHA-256 of the weights that are not the hook's."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if "latent_hook_" not in name:
            digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()[:16]


def ask(count):
    """The question "Where?" for each row of a batch."""
    return torch.tensor([[3 + byte for byte in b"Where?"]]).expand(count, -1)


@torch.no_grad()
def accuracy(model, states, text):
    prompt = lay_out(model.config, {"text": ask(len(text))}, {"text": None})
    said = model.generate(**prompt, hook_states={"depth": states}, max_new_tokens=1, do_sample=False)
    return (said[:, -1] == text).float().mean().item()


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    # an untrained model serves: with larger weights than usual it does something with what it attends to
    config = OmniLatentConfig.tiny(initializer_range=0.2, layer_scale_init_value=1.0)
    model = OmniLatentModel(config).requires_grad_(False)
    hidden_size = config.hidden_size
    before = fingerprint(model)

    encoder = DepthEncoder(hidden_size)
    hook = LatentNeuralHook("depth", dim=hidden_size, gate_bias_init=2.0)
    model.register_hook(hook)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *hook.parameters()], lr=args.lr)
    model.train()
    for _ in range(args.steps):
        depth, text = make_maps(32)
        target = text.unsqueeze(1)
        loss = model("text", ask(len(text)), "text", target=target, hook_states={"depth": encoder(depth)}).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    model.eval()
    depth, text = make_maps(256)
    with torch.no_grad():
        states = encoder(depth)
    results = {
        "accuracy": accuracy(model, states, text),
        "shuffled": accuracy(model, states[torch.randperm(len(states))], text),
        "chance": 1 / len(ANSWERS),
    }
    model.remove_hook("depth")
    results |= {"before": before, "after": fingerprint(model)}
    print(f"Held-out depth maps said right: {results['accuracy']:.2f} (chance {results['chance']:.2f})")
    print(f"  with the depth of another row: {results['shuffled']:.2f}")
    print(f"The model's weights before: {results['before']}")
    print(f"                    after:  {results['after']}")
    return results


if __name__ == "__main__":
    main()
