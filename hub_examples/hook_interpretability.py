"""Interpretability: per layer, what hooks read and who reads them, as figures and as a picture.

    python hub_examples/hook_interpretability.py --out runs/hook_interpretability/hooks.png

A hook learns to let a frozen model say which digit stands in a line of letters. Attention is recorded before and after:
how much of what hooks read of the line is the digit, and how much of the answer's attention goes to hooks.
"""

import argparse
from pathlib import Path

import torch
from torch.nn import functional as F

from omnilatent import LatentNeuralHook, OmniLatentConfig, OmniLatentModel, draw_hooks, record_hooks

LENGTH = 9


def make_lines(count):
    """Lines of letters (B, T) with a digit in each, the digit (B,) and its place (B,); byte b is token 3 + b."""
    lines = torch.randint(ord("a"), ord("f") + 1, (count, LENGTH))
    digit, place = torch.randint(ord("0"), ord("3") + 1, (count,)), torch.randint(LENGTH, (count,))
    return lines.scatter(1, place.unsqueeze(1), digit.unsqueeze(1)) + 3, digit + 3, place


def look(model, lines, digit, place):
    """Records of one pass, and per layer the digit's share of the line for the head and hook that read it most, and
    the weight of hooks in the answer's attention."""
    with torch.no_grad(), record_hooks(model) as records:
        model("text", lines, "text", target=digit.unsqueeze(1))
    figures = []
    for record in records:
        hooks = record.rows_of("digits")
        line = record.reads[:, :, hooks, hooks.stop : hooks.stop + LENGTH]  # (B, H, N, T)
        on_digit = line[torch.arange(len(place)), :, :, place] / line.sum(dim=-1)
        answer = LENGTH + 1  # behind the line come the target's marker and BOS, where the answer is predicted
        figures.append((on_digit.mean(dim=0).max().item(), record.readers[:, :, answer].sum(dim=-1).mean().item()))
    return records, figures


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--out", type=Path, default=Path("runs/hook_interpretability/hooks.png"))
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    # an untrained model serves: with larger weights than usual it does something with what it attends to
    config = OmniLatentConfig.tiny(num_hidden_layers=3, initializer_range=0.2, layer_scale_init_value=1.0)
    model = OmniLatentModel(config).requires_grad_(False)
    model.set_attn_implementation("eager")  # the kernel that has its weights to show
    hook = LatentNeuralHook("digits", num_tokens=4, dim=config.hidden_size, gate_bias_init=0.0)
    model.register_hook(hook)

    held_out = make_lines(64)
    _, before = look(model.eval(), *held_out)
    optimizer = torch.optim.AdamW(hook.parameters(), lr=args.lr)
    model.train()
    for _ in range(args.steps):
        lines, digit, _ = make_lines(32)
        output = model("text", lines, "text", target=digit.unsqueeze(1)).output
        loss = F.cross_entropy(output[:, 1], digit)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    records, after = look(model.eval(), *held_out)

    lines, digit, _ = held_out
    with torch.no_grad():
        said = model("text", lines, "text", target=digit.unsqueeze(1)).output[:, 1].argmax(dim=1)
    results = {"accuracy": (said == digit).float().mean().item(), "before": before, "after": after}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    draw_hooks(records).savefig(args.out)
    print(f"Digits found in held-out lines: {results['accuracy']:.2f} (chance 0.25)")
    print("The digit's share of what hooks read of the line (chance 0.11); weight of hooks in the answer's attention:")
    for record, old, new in zip(records, before, after):
        print(f"  {record.layer}: {old[0]:.2f} -> {new[0]:.2f}; {old[1]:.2f} -> {new[1]:.2f}")
    print(f"The first line's weights are drawn in {args.out}")
    return results


if __name__ == "__main__":
    main()
