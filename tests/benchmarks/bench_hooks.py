"""What Latent Neural Hooks cost: a training step of OmniLatent without, with one and with eight, beside LoRA.

    python tests/benchmarks/bench_hooks.py [--batch-size 32] [--sources text audio image video] [--target image]

bf16 autocast, fused AdamW; eager and compiled. Hooks of 8 tokens join 6 layers. Ratios are medians over rounds in
which all variants take turns. First all weights train, with and without hooks; then the base is frozen and hooks stand
beside LoRA of rank 8 on the same six layers. The kernels of a step without hooks are counted by the profiler before
any was registered and after all were removed.
"""

import argparse
import collections
import statistics
import time

import torch
from peft import LoraConfig, get_peft_model
from torch.profiler import ProfilerActivity, profile

from omnilatent import LatentNeuralHook, OmniLatentConfig, OmniLatentModel
from omnilatent.configuration.layout import lay_out

ATTENTION_KERNELS = ("fmha", "flash", "attention", "cudnn")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--preset", default="base", choices=["tiny", "base", "large"])
    parser.add_argument("--sources", nargs="+", default=["text", "audio", "image", "video"])
    parser.add_argument("--target", default="image")
    parser.add_argument("--text-length", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--no-compile", action="store_true")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)

    config = getattr(OmniLatentConfig, arguments.preset)()
    batch = make_batch(config, arguments, device)
    print(f"device {torch.cuda.get_device_name() if device == 'cuda' else 'cpu'}, torch {torch.__version__}")
    tokens = batch["input_ids"].shape[1]
    print(f"{' '.join(arguments.sources)} to {arguments.target}, batch {arguments.batch_size}, {tokens} tokens")
    count_kernels(config, batch, device)
    settings = [("eager", "trained"), ("eager", "frozen")] + [("compiled", "trained")] * (not arguments.no_compile)
    for mode, base in settings:
        names = ["no hooks", "1 hook", "8 hooks"] if base == "trained" else ["1 hook", "8 hooks", "LoRA"]
        steps = {name: make_step(config, name, base == "frozen", mode == "compiled", device) for name in names}
        report(steps, batch, arguments.rounds, f"{mode}, base {base}")


def make_batch(config, arguments, device):
    shapes = {
        "audio": (config.num_mel_bins, config.audio_target_length),
        "image": (3, config.image_size, config.image_size),
        "video": (3, config.num_frames, config.video_size, config.video_size),
    }

    def values(modality):
        if modality == "text":
            return torch.randint(3, config.vocab_size, (arguments.batch_size, arguments.text_length), device=device)
        return torch.randn(arguments.batch_size, *shapes[modality], device=device)

    sources, target = arguments.sources, arguments.target
    laid_out = lay_out(config, {name: values(name) for name in sources}, {target: values(target)})
    return {**laid_out, "use_cache": False}  # as Trainer has it


def register_hooks(model, count):
    layers = list(range(min(6, model.config.num_hidden_layers)))
    for index in range(count):
        model.register_hook(LatentNeuralHook(f"hook{index}", 8, model.config.hidden_size, target_layers=layers))


def make_step(config, name, frozen, compiled, device):
    model = OmniLatentModel(config).to(device).train()
    if frozen:
        model.requires_grad_(False)
    if name == "LoRA":
        targets = r"layers\.[0-5]\..*_proj"
        model = get_peft_model(model, LoraConfig(r=8, target_modules=targets))
    elif name != "no hooks":
        register_hooks(model, int(name.split()[0]))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=device == "cuda")
    forward = torch.compile(model, fullgraph=True) if compiled else model

    def step(batch):
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = forward(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step.trained = sum(parameter.numel() for parameter in trained)
    return step


def report(variants, batch, rounds, title):
    seconds, memory = collections.defaultdict(list), {}
    for name, step in variants.items():
        for _ in range(3):
            step(batch)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            step(batch)
            memory[name] = (torch.cuda.max_memory_allocated() - before) / 2**20
    for _ in range(rounds):
        for name, step in variants.items():
            seconds[name].append(timed(step, batch))
    first = next(iter(variants))
    print(f"\n{title}")
    for name, step in variants.items():
        ratio = statistics.median(own / base for own, base in zip(seconds[name], seconds[first]))
        print(
            f"{name:>9} {statistics.median(seconds[name]) * 1e3:8.2f} ms  {ratio:6.3f} of '{first}'  "
            f"{step.trained / 1e6:8.3f} M trained  {memory.get(name, float('nan')):8.0f} MiB above the model"
        )


def timed(step, batch, steps=5):
    """Mean seconds of a few steps in a row, as training takes them."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        step(batch)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / steps


def count_kernels(config, batch, device):
    """Print how many kernels run in a forward and backward pass, for how long, and whether hooks leave a trace."""
    model = OmniLatentModel(config).to(device).train()
    before, busy = kernels(model, batch, device)
    register_hooks(model, 1)
    hooked, busy_hooked = kernels(model, batch, device)
    model.remove_hook("hook0")
    after, _ = kernels(model, batch, device)
    same = "the same" if before == after else f"DIFFERENT: {before - after} {after - before}"
    print(f"kernels: {before.total()} before, {hooked.total()} with one hook, {after.total()} when removed: {same}")
    print(f"   forward and backward keep the device busy for {busy:.2f} ms, with one hook {busy_hooked:.2f} ms")
    for title, counted in (("no hooks", before), ("1 hook", hooked)):
        attention = {name[:60]: n for name, n in counted.items() if any(word in name for word in ATTENTION_KERNELS)}
        print(f"   attention, {title}: {attention}")


def kernels(model, batch, device):
    activity = ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU
    for _ in range(2):  # the first run chooses algorithms
        with profile(activities=[activity]) as profiler:
            with torch.autocast(device, dtype=torch.bfloat16):
                loss = model(**batch).loss
            loss.backward()
            model.zero_grad()
            if device == "cuda":
                torch.cuda.synchronize()
    events = [event for event in profiler.key_averages() if not event.key.startswith("cuda")]  # what the host calls
    busy = sum(event.self_device_time_total if device == "cuda" else event.self_cpu_time_total for event in events)
    return collections.Counter({event.key: event.count for event in events}), busy / 1e3


if __name__ == "__main__":
    main()
