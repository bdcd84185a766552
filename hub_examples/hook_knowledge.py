"""Knowledge injection: what a search found enters attention as hook states, and the answer follows it.

    python hub_examples/hook_knowledge.py

A frozen model is asked where somebody lives. A look-up in a table of facts, which stands in for a search engine, gives
the two tokens of a place; their embeddings are the states of the hook "facts" in that call. The hook learns once how to
read out what it is given. Facts can then be exchanged without training, also for places that it never saw.
"""

import argparse

import torch
from peft import get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from omnilatent import LatentHookConfig

SYLLABLES = 16  # a place is two of them, tokens 0 to 15
PEOPLE = range(16, 32)
ASK = 32
SIZES = dict(hidden_size=96, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4)


class Reader(nn.Module):
    """Places (B, 2) as hook states (B, 2, D): the model's embeddings of the syllables, marked first and second."""

    def __init__(self, embed: nn.Embedding):
        super().__init__()
        self.order = nn.Parameter(torch.randn(2, embed.embedding_dim) * embed.weight.std().item())
        self.embed = [embed]  # the frozen model's and none of ours

    def forward(self, places):
        return self.embed[0](places) + self.order


def ask(people):
    """Prompts (B, 2): somebody's name, and the question."""
    return torch.stack([people, torch.full_like(people, ASK)], dim=1)


def learn(model, reader, places, steps, lr):
    """Train hook and reader to say what is in the states, whoever is asked about."""
    optimizer = torch.optim.AdamW([*reader.parameters(), *(p for p in model.parameters() if p.requires_grad)], lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for _ in range(steps):
        place = places[torch.randint(len(places), (64,))]
        prompts = ask(torch.randint(PEOPLE.start, PEOPLE.stop, (64,)))
        ids = torch.cat([prompts, place], dim=1)
        labels = torch.cat([torch.full_like(prompts, -100), place], dim=1)
        loss = model(input_ids=ids, labels=labels, use_cache=False, hook_states={"facts": reader(place)}).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def answer(model, people, states=None):
    """Two generated tokens for each of the people."""
    found = {} if states is None else {"hook_states": {"facts": states}}
    prompts = ask(people)
    settings = dict(max_new_tokens=2, do_sample=False, pad_token_id=ASK)
    return model.generate(input_ids=prompts, attention_mask=torch.ones_like(prompts), **found, **settings)[:, 2:]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    # an untrained model serves: with larger weights than usual it does something with what it attends to
    config = LlamaConfig(vocab_size=33, **SIZES, initializer_range=0.2, bos_token_id=None, eos_token_id=None)
    model = get_peft_model(LlamaForCausalLM(config), LatentHookConfig(gate_bias_init=2.0), adapter_name="facts")
    reader = Reader(model.get_input_embeddings())

    places = torch.cartesian_prod(torch.arange(SYLLABLES), torch.arange(SYLLABLES))
    places = places[torch.randperm(len(places))]
    known, unseen = places[32:], places[:32]
    learn(model.train(), reader, known, args.steps, args.lr)

    model.eval()
    people = torch.tensor(PEOPLE)
    facts = dict(zip(PEOPLE, unseen))  # everybody lives in a place that training never named
    states = reader(torch.stack([facts[person] for person in PEOPLE]))
    homes = torch.stack(list(facts.values()))
    right = lambda answers, places: (answers == places).all(dim=1).float().mean().item()  # noqa: E731
    results = {"retrieved": right(answer(model, people, states), homes)}
    moved = unseen[len(PEOPLE) : 2 * len(PEOPLE)]  # the same questions, another table
    results["exchanged"] = right(answer(model, people, reader(moved)), moved)
    results["without"] = right(answer(model, people), homes)
    results["chance"] = 1 / SYLLABLES**2
    print(f"Places that training never named, said right of {len(people)} people:")
    print(f"  with what was retrieved      {results['retrieved']:.2f}")
    print(f"  after all of them moved      {results['exchanged']:.2f}  (the table was changed, nothing was trained)")
    print(f"  without hook states          {results['without']:.2f}  (chance {results['chance']:.3f})")
    return results


if __name__ == "__main__":
    main()
