"""Composition: two hooks and a LoRA work together, and come and go by the same calls.

    python hub_examples/hook_composition.py

Each adapter learns the answer to one question that the frozen model cannot answer, while those before it are active
and stay as they are. Together they answer all three; without one of them its own answer is missing. They are saved one
by one and loaded into a fresh model.

Hooks leave the names of what is in a layer alone, so that a LoRA may be attached before them or after.
"""

import argparse
import warnings
from pathlib import Path

import torch
from peft import LoraConfig
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from omnilatent import LatentHookConfig

WORDS = 24  # of which any may come before a question
QUESTIONS = {"number": 24, "colour": 25, "animal": 26}  # an adapter's name, and the token of the question it answers
ANSWERS = {"number": 3, "colour": 11, "animal": 17}
SIZES = dict(hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4)


def make_model():
    """An untrained model serves: with larger weights than usual it does something with what it attends to."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=27, **SIZES, initializer_range=0.2, bos_token_id=None, eos_token_id=None)
    return LlamaForCausalLM(config).eval()


def attach(model, name):
    """The same call for a LoRA and for a hook."""
    if name == "number":
        config = LoraConfig(target_modules=["q_proj", "v_proj", "down_proj"], r=4)
    else:
        config = LatentHookConfig(num_tokens=4, gate_bias_init=0.0)
    model.add_adapter(config, name)


def scores(model, name, count=64):
    """Logits (B, vocab) behind three random words and the question of one of the adapters."""
    words = torch.randint(WORDS, (count, 3))
    question = torch.full((count, 1), QUESTIONS[name])
    return model(input_ids=torch.cat([words, question], dim=1), use_cache=False).logits[:, -1]


def learn(model, name, known, steps, lr):
    """Train one adapter, beside those whose questions are known, to answer its own and to leave theirs answered."""
    parameters = [p for key, p in model.named_parameters() if key.endswith(f".{name}") or f".{name}." in key]
    optimizer = torch.optim.AdamW(parameters, lr=lr)
    for _ in range(steps):
        loss = sum(F.cross_entropy(scores(model, asked), torch.full((64,), ANSWERS[asked])) for asked in known)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def right(model):
    """How often each question is answered, by the name of the adapter that knows."""
    return {name: (scores(model, name).argmax(dim=1) == ANSWERS[name]).float().mean().item() for name in QUESTIONS}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="of each adapter")
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--out", type=Path, default=Path("runs/hook_composition"))
    args = parser.parse_args(argv)
    warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several adapters are the purpose
    model, names = make_model(), list(QUESTIONS)
    probe = torch.arange(WORDS).view(4, 6)
    untouched = model(input_ids=probe).logits.detach()
    results = {"none": right(model)}

    for count, name in enumerate(names, start=1):
        attach(model, name)
        model.set_adapter(names[:count])
        learn(model, name, names[:count], args.steps, args.lr)
        results[" + ".join(names[:count])] = right(model)
        model.set_adapter(name)
        model.save_pretrained(args.out / name)

    model.set_adapter(names)
    together = model(input_ids=probe).logits.detach()
    for name in names:
        model.set_adapter([other for other in names if other != name])
        results[f"without {name}"] = right(model)
    model.disable_adapters()
    results["off_is_exact"] = torch.equal(model(input_ids=probe).logits, untouched)

    fresh = make_model()
    for name in names:
        fresh.load_adapter(str(args.out / name), name)
    fresh.set_adapter(names)
    results["loaded_is_exact"] = torch.equal(fresh(input_ids=probe).logits, together)
    for name in names:
        fresh.set_adapter([other for other in fresh.peft_config if other != name])
        fresh.delete_adapter(name)
    results["deleted_is_exact"] = torch.equal(fresh(input_ids=probe).logits, untouched)

    print(f"{'How often each is answered':28}" + "".join(f"{name:>9}" for name in names))
    for title, figures in results.items():
        if isinstance(figures, dict):
            print(f"  {title:26}" + "".join(f"{figures[name]:9.2f}" for name in names))
    print(f"Switched off, the model is what it was, to the bit: {results['off_is_exact']}")
    print(f"Loaded one by one from {args.out}, the set is the same: {results['loaded_is_exact']}")
    print(f"Deleted one by one, nothing is left of them: {results['deleted_is_exact']}")
    return results


if __name__ == "__main__":
    main()
