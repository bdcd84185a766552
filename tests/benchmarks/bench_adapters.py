"""Latent hooks, prompt tuning, prefix tuning and LoRA with equally many parameters, on tasks new to a frozen base.

    python tests/benchmarks/bench_adapters.py [--quick] [--device cuda] [--tasks partner-of-largest ...]

A small Llama learns to obey commands about a prompt of 8 symbols: name its first, last, largest or smallest symbol,
repeat it. It is frozen, and each adapter teaches it a command that it has never seen. Methods share the grid of
learning rates, the steps, the batches and the seeds; the learning rate with the best mean validation accuracy over
seeds is the one whose test accuracy counts. The line "base" is the frozen model under whichever command, known or
new, does best.
"""

import argparse
import copy
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from omnilatent import LatentHookConfig

SYMBOLS, LENGTH, BATCH = 16, 8, 32
PARTNERS = torch.randperm(SYMBOLS, generator=torch.Generator().manual_seed(5))  # the new rule: a symbol's partner
LEARNING_RATES = (3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)


def most_frequent(prompt: torch.Tensor) -> torch.Tensor:
    """The symbol that occurs most often, the smallest of several: (B, 8) -> (B, 1)."""
    counts = F.one_hot(prompt, SYMBOLS).sum(dim=1)
    return (counts * SYMBOLS - torch.arange(SYMBOLS)).argmax(dim=1, keepdim=True)


# (B, 8) symbols -> (B, answers)
KNOWN = {
    "first": lambda prompt: prompt[:, :1],
    "last": lambda prompt: prompt[:, -1:],
    "largest": lambda prompt: prompt.amax(dim=1, keepdim=True),
    "smallest": lambda prompt: prompt.amin(dim=1, keepdim=True),
    "repeat": lambda prompt: prompt,
}
NEW = {
    "partner-of-largest": lambda prompt: PARTNERS[prompt.amax(dim=1, keepdim=True)],
    "partner-of-each": lambda prompt: PARTNERS[prompt],
    "most-frequent": most_frequent,
}
TASKS = KNOWN | NEW
COMMANDS = {name: SYMBOLS + number for number, name in enumerate(KNOWN)} | dict.fromkeys(NEW, SYMBOLS + len(KNOWN))
VOCABULARY = SYMBOLS + len(KNOWN) + 1

# 1138 to 1152 parameters each, at a width of 32 and 3 layers
HOOKS = dict(num_tokens=2, transform_dim=5, task_type="CAUSAL_LM")
METHODS = {
    "hooks that read": lambda gate: LatentHookConfig(**HOOKS, reads="prompt", gate_bias_init=gate),
    "hooks that read nothing": lambda gate: LatentHookConfig(**HOOKS, reads="none", gate_bias_init=gate),
    "prompt tuning": lambda gate: PromptTuningConfig(num_virtual_tokens=36, task_type="CAUSAL_LM"),
    "prefix tuning": lambda gate: PrefixTuningConfig(num_virtual_tokens=6, task_type="CAUSAL_LM"),
    "LoRA": lambda gate: LoraConfig(r=3, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
}


@dataclass
class Run:
    """What one method reached with one learning rate and seed."""

    validation: float
    test: float
    parameters: int
    file_bytes: int


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one task, seed and learning rate")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tasks", nargs="+", choices=NEW, default=["partner-of-largest", "partner-of-each"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--steps", type=int, default=250, help="training steps of each adapter")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--gate-bias-init", type=float, default=0.0, help="start of the hooks' gates")
    arguments = parser.parse_args()
    rates, pretraining = LEARNING_RATES, 2500
    if arguments.quick:
        rates, pretraining = (3e-2,), 1000
        arguments.tasks, arguments.seeds, arguments.steps = arguments.tasks[:1], 1, 250
    device = arguments.device

    begun = time.perf_counter()
    base = make_base().to(device)
    train(base, list(KNOWN), pretraining, learning_rate=4e-3, seed=0)
    base.requires_grad_(False)
    known = ", ".join(f"{name} {accuracy(base, name, 'test'):.3f}" for name in KNOWN)
    machine = torch.cuda.get_device_name() if "cuda" in device else f"CPU, {torch.get_num_threads()} threads"
    print(f"{machine}; torch {torch.__version__}; the base on commands it knows: {known}", flush=True)

    for task in arguments.tasks:
        prompt, answers = draw(task, 2000, generator_of("test"))
        guess = answers.flatten().bincount().max().item() / answers.numel()
        alone = max(accuracy(base, task, "test", command) for command in COMMANDS.values())
        print(f"\n### {task}\n\nThe most frequent answer: {guess:.3f}. Base: {alone:.3f}.\n")
        print("| Method | Parameters | Test accuracy (mean ± sd) | Seeds | Learning rate | File KiB |")
        print("|---|---|---|---|---|---|", flush=True)
        for method in arguments.methods:
            runs = {
                rate: [
                    adapt(base, METHODS[method](arguments.gate_bias_init), task, rate, seed, arguments.steps)
                    for seed in range(arguments.seeds)
                ]
                for rate in rates
            }
            print(row(method, runs), flush=True)
    print_costs(base, arguments)
    print(f"\n{time.perf_counter() - begun:.0f} s in all")


def print_costs(base, arguments):
    """Time of a training step and the memory it needs above weights; in turns, as other work may disturb the clock."""
    methods = {name: METHODS[name](arguments.gate_bias_init) for name in arguments.methods}
    models = {name: get_peft_model(copy.deepcopy(base), config) for name, config in methods.items()}
    seconds, peaks, on_gpu = {name: [] for name in models}, {}, base.device.type == "cuda"
    for _ in range(6):
        for name, model in models.items():
            if on_gpu:
                before = torch.cuda.memory_allocated()
                torch.cuda.reset_peak_memory_stats()
            seconds[name].append(train(model, [next(iter(NEW))], steps=8, learning_rate=1e-3, seed=0))
            if on_gpu:
                peaks[name] = f"{(torch.cuda.max_memory_allocated() - before) / 2**20:.1f}"
    print(f"\n| Method | ms a step of {BATCH} prompts | CUDA peak above weights, MiB |\n|---|---|---|")
    for name in models:
        print(f"| {name} | {min(seconds[name]) * 1e3:.1f} | {peaks.get(name, 'not measured on CPU')} |")


def row(method: str, runs: dict[float, list[Run]]) -> str:
    """The line of a method, with the learning rate that validates best."""
    rate = max(runs, key=lambda rate: statistics.mean(run.validation for run in runs[rate]))
    best = runs[rate]
    tests = [run.test for run in best]
    cells = [
        method,
        str(best[0].parameters),
        f"{statistics.mean(tests):.3f}" + (f" ± {statistics.stdev(tests):.3f}" if len(tests) > 1 else ""),
        " ".join(f"{test:.3f}" for test in tests),
        f"{rate:g}",
        f"{best[0].file_bytes / 2**10:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


# --- tasks -------------------------------------------------------------------------------------------------------


def draw(task: str, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts (count, 8), each with favourite symbols of its own, and their answers (count, answers)."""
    weights = torch.rand(count, SYMBOLS, generator=generator) ** 3 + 1e-3
    prompt = torch.multinomial(weights, LENGTH, replacement=True, generator=generator)
    return prompt, TASKS[task](prompt)


def generator_of(split: str | int) -> torch.Generator:
    """Its own stream of examples for each split, and for the training of each seed."""
    seed = {"validation": 1, "test": 2}[split] if isinstance(split, str) else 100 + split
    return torch.Generator().manual_seed(seed)


def answer_logits(model, prompt, answers, command) -> torch.Tensor:
    """Logits of the answers, (B, answers, vocabulary), each given the answers before it."""
    device = next(model.parameters()).device
    ids = torch.cat([prompt, torch.full((len(prompt), 1), command), answers[:, :-1]], dim=1).to(device)
    given = {"input_ids": ids, "use_cache": False}
    if reads_prompt(model):
        given["hook_read_mask"] = (torch.arange(ids.shape[1], device=device) <= LENGTH).expand(ids.shape)
    return model(**given).logits[:, -answers.shape[1] :]  # what virtual tokens say comes first and is dropped


def reads_prompt(model) -> bool:
    return getattr(getattr(model, "active_peft_config", None), "reads", None) == "prompt"


@torch.no_grad()
def accuracy(model, task: str, split: str, command: int | None = None) -> float:
    """Share of right answers, teacher-forced where there are several."""
    prompt, answers = draw(task, 500 if split == "validation" else 2000, generator_of(split))
    model.eval()
    logits = answer_logits(model, prompt, answers, COMMANDS[task] if command is None else command)
    return (logits.argmax(dim=-1).cpu() == answers).float().mean().item()


# --- training ----------------------------------------------------------------------------------------------------


def make_base() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config)


def train(model, tasks: list[str], steps: int, learning_rate: float, seed: int) -> float:
    """AdamW, warmed up for a tenth of the steps and faded out over the second half; median seconds of a step."""
    generator = generator_of(seed)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, 10 * (step + 1) / steps, 2 * (steps - step) / steps)
    )
    model.train()
    seconds = []
    for _ in range(steps):
        begun = time.perf_counter()
        task = tasks[torch.randint(len(tasks), (1,), generator=generator).item()]
        prompt, answers = draw(task, BATCH, generator)
        logits = answer_logits(model, prompt, answers, COMMANDS[task])
        F.cross_entropy(logits.flatten(0, 1), answers.flatten().to(logits.device)).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if logits.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def adapt(base, config, task: str, learning_rate: float, seed: int, steps: int) -> Run:
    """Teach a copy of the frozen base a task by one adapter."""
    torch.manual_seed(seed)
    model = get_peft_model(copy.deepcopy(base), config)
    train(model, [task], steps, learning_rate, seed)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        size = (Path(folder) / "adapter_model.safetensors").stat().st_size
    return Run(
        validation=accuracy(model, task, "validation"),
        test=accuracy(model, task, "test"),
        parameters=model.get_nb_trainable_parameters()[0],
        file_bytes=size,
    )


if __name__ == "__main__":
    main()
