"""A hook teaches a frozen model what the model alone cannot do."""

import torch
from peft import get_peft_model
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from omnilatent import LatentHookConfig

SYMBOLS, LENGTH = 8, 6
FIRST, LARGEST, PARTNER = SYMBOLS, SYMBOLS + 1, SYMBOLS + 2  # commands that end a prompt; the base never sees the last
PARTNERS = torch.tensor([5, 2, 7, 0, 3, 6, 1, 4])  # the new rule: not the largest symbol but its partner


def draw(count, commands, generator):
    """Prompts with a command at their end, (count, 7), and the answers, (count,)."""
    prompt = torch.randint(SYMBOLS, (count, LENGTH), generator=generator)
    # of many alphabets, so that the largest symbol cannot be guessed
    prompt = prompt % torch.randint(1, SYMBOLS + 1, (count, 1), generator=generator)
    command = torch.tensor(commands)[torch.randint(len(commands), (count, 1), generator=generator)]
    largest = prompt.amax(dim=1, keepdim=True)
    answers = torch.where(command == FIRST, prompt[:, :1], torch.where(command == LARGEST, largest, PARTNERS[largest]))
    return torch.cat([prompt, command], dim=1), answers.squeeze(1)


def answer(model, ids):
    read = {"hook_read_mask": torch.ones_like(ids)} if hasattr(model, "peft_config") else {}
    return model(input_ids=ids, use_cache=False, **read).logits[:, -1]


def train(model, commands, steps, learning_rate, seed):
    generator = torch.Generator().manual_seed(seed)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, 10 * (step + 1) / steps, 2 * (steps - step) / steps)
    )
    for _ in range(steps):
        ids, answers = draw(64, commands, generator)
        F.cross_entropy(answer(model, ids), answers).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


@torch.no_grad()
def held_out_accuracy(model, task, shown):
    """Right answers to a task when the model is shown some command, on a stream of prompts of its own."""
    ids, answers = draw(1000, [task], torch.Generator().manual_seed(99))
    ids[:, -1] = shown
    return (answer(model, ids).argmax(dim=-1) == answers).float().mean().item()


def test_a_hook_on_a_frozen_base_learns_what_the_base_alone_cannot_do():
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4)
    base = LlamaForCausalLM(LlamaConfig(vocab_size=SYMBOLS + 5, bos_token_id=None, eos_token_id=None, **sizes))
    train(base, [LARGEST, FIRST], steps=200, learning_rate=8e-3, seed=0)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    assert held_out_accuracy(base, LARGEST, shown=LARGEST) > 0.95
    assert max(held_out_accuracy(base, PARTNER, shown) for shown in (FIRST, LARGEST, PARTNER)) < 0.4

    torch.manual_seed(0)
    settings = dict(num_tokens=8, transform_dim=32, gate_bias_init=2.0, reads="prompt", task_type="CAUSAL_LM")
    hooked = get_peft_model(base, LatentHookConfig(**settings))
    train(hooked, [PARTNER], steps=240, learning_rate=2e-2, seed=2)
    assert held_out_accuracy(hooked, PARTNER, shown=PARTNER) > 0.9

    base = hooked.unload()
    assert list(base.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
