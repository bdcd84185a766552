"""Task-specific behaviour: with a hook the same model does another task, without it the one it was trained for.

    python hub_examples/hook_task_behaviour.py

A small model learns to say the larger of two numbers, and after the word "smaller" the smaller one. Then it is frozen,
and a hook learns to let it say the smaller one without being told. With the hook off the model does what it did before,
to the bit.
"""

import argparse
import random

import torch
from peft import get_peft_model
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from omnilatent import LatentHookConfig

NUMBERS = 16
QUESTION, SMALLER = 16, 17  # further tokens: ends each prompt; may begin it
SIZES = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4)


def train(model, pairs, tasks, steps, lr):
    """Teach the trainable parameters to answer [*words, a, b, QUESTION] with tasks[words](a, b)."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    model.train()
    for _ in range(steps):
        pair = pairs[torch.randint(len(pairs), (64,))]
        words, task = random.choice(list(tasks.items()))
        loss = F.cross_entropy(scores(model, pair, words), task(pair, dim=1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


def scores(model, pairs, words=()):
    """What the model thinks of each number as the answer, (B, NUMBERS)."""
    words = torch.tensor([[*words, QUESTION]]).expand(len(pairs), -1)
    prompts = torch.cat([words[:, :-1], pairs, words[:, -1:]], dim=1)
    return model(input_ids=prompts, use_cache=False).logits[:, -1, :NUMBERS]


@torch.no_grad()
def how_often(model, pairs):
    """How often the larger and the smaller number is said, without a word before."""
    said = scores(model, pairs).argmax(dim=1)
    return tuple((said == task(pairs, dim=1)).float().mean().item() for task in (torch.amax, torch.amin))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=250, help="of the model's training; the hook gets half as many")
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    random.seed(args.seed)
    numbers = torch.arange(NUMBERS)
    pairs = torch.cartesian_prod(numbers, numbers)
    pairs = pairs[(pairs[:, 0] != pairs[:, 1]).nonzero().flatten()]
    pairs = pairs[torch.randperm(len(pairs))]
    known, unseen = pairs[60:], pairs[:60]

    base = LlamaForCausalLM(LlamaConfig(vocab_size=NUMBERS + 2, **SIZES, bos_token_id=None, eos_token_id=None))
    train(base, known, {(): torch.amax, (SMALLER,): torch.amin}, args.steps, args.lr / 3)
    before = scores(base, unseen).detach()
    results = {"base": how_often(base, unseen)}

    model = get_peft_model(base, LatentHookConfig(num_tokens=4, gate_bias_init=2.0), adapter_name="smaller")
    train(model, known, {(): torch.amin}, args.steps // 2, args.lr)
    results["hook"] = how_often(model, unseen)
    with model.disable_adapter():
        results["off"] = how_often(model, unseen)
        results["same"] = torch.equal(scores(model, unseen), before)

    print(f"Of {len(unseen)} pairs that no training had:  the larger said  the smaller said")
    for name, title in (("base", "the model"), ("hook", "with the hook"), ("off", "with the hook off")):
        print(f"  {title:36}  {results[name][0]:13.2f}  {results[name][1]:16.2f}")
    print(f"With the hook off the outputs are those from before, to the bit: {results['same']}")
    return results


if __name__ == "__main__":
    main()
