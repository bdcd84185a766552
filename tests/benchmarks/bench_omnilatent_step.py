"""Memory and time of a training step of the default OmniLatent, all 16 pairs, beside a Llama of the same size.

    python tests/benchmarks/bench_omnilatent_step.py [--batch-size 4] [--preset base] [--compile]

bf16 autocast, gradient checkpointing, AdamW, as Trainer runs it. The Llama has the same width, depth, feed-forward
and vocabulary and reads a sequence of the same length, so the ratio says what encoders, decoders, segments and
losses cost. The share of the matmul ceiling is (multiplications the step needs, recomputation not counted) / time /
(speed of an 8192³ bf16 product in the same run).
"""

import argparse
import functools
import itertools
import statistics
import time

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from omnilatent import OmniLatentConfig, OmniLatentModel
from omnilatent.configuration.layout import lay_out
from omnilatent.configuration.modalities import MODALITIES


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--preset", default="base", choices=["tiny", "base", "large"])
    parser.add_argument("--text-length", type=int, default=64, help="text tokens of a source or target")
    parser.add_argument("--repeats", type=int, default=10, help="timed steps per pair, after 3 warm-up steps")
    parser.add_argument("--compile", action="store_true", help="compile both models")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)

    config = getattr(OmniLatentConfig, arguments.preset)()
    print(f"device {torch.cuda.get_device_name() if device == 'cuda' else 'cpu'}, torch {torch.__version__}")
    ceiling = matmul_ceiling(device)
    print(f"bf16 matmul ceiling {ceiling / 1e12:.1f} TFLOP/s")
    values = make_values(config, arguments.batch_size, arguments.text_length, device)
    memory_table(config, values, device)

    model = prepare(OmniLatentModel(config), device, arguments.compile)
    step = training_step(model)
    rows = []
    for source, target in itertools.product(MODALITIES, MODALITIES):
        batch = lay_out(config, {source: values[source]}, {target: values[target]}, contrast=True)
        seconds = timed(functools.partial(step, batch), arguments.repeats, device)
        rows.append([source, target, batch["input_ids"].shape[1], seconds])
    reserved = torch.cuda.max_memory_reserved() / 2**30 if device == "cuda" else float("nan")
    del model, step
    for row in rows:
        row.append(
            count_flops(
                config, lay_out(config, {row[0]: values[row[0]]}, {row[1]: values[row[1]]}, contrast=True), device
            )
        )

    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            tie_word_embeddings=True,
        )
    )
    step = training_step(prepare(llama, device, arguments.compile))
    peer = {}
    for length in sorted({row[2] for row in rows}):
        ids = torch.randint(3, config.vocab_size, (arguments.batch_size, length), device=device)
        peer[length] = timed(functools.partial(step, {"input_ids": ids, "labels": ids}), arguments.repeats, device)

    print(f"\nbatch {arguments.batch_size}, text length {arguments.text_length}, compile {arguments.compile}")
    print(f"{'source':>7} {'target':>7} {'tokens':>7} {'ms':>8} {'of ceiling':>11} {'time / Llama':>13}")
    for source, target, length, seconds, flops in rows:
        print(
            f"{source:>7} {target:>7} {length:>7} {seconds * 1e3:>8.1f} {flops / seconds / ceiling:>11.3f} "
            f"{seconds / peer[length]:>13.2f}"
        )
    mean = statistics.mean(row[3] for row in rows)
    share = sum(row[4] for row in rows) / sum(row[3] for row in rows) / ceiling
    ratio = sum(row[3] for row in rows) / sum(peer[row[2]] for row in rows)
    print(f"   mean {mean * 1e3:.1f} ms, {share:.3f} of the ceiling, {ratio:.2f} of Llama's time")
    print(f"   peak memory reserved over all pairs {reserved:.2f} GiB")


def prepare(model, device, compile_it):
    model = model.to(device).train()
    model.activation_checkpointing_enable()
    return torch.compile(model) if compile_it else model


def make_values(config, batch, text_length, device):
    return {
        "text": torch.randint(3, config.vocab_size, (batch, text_length), device=device),
        "audio": torch.randn(batch, config.num_mel_bins, config.audio_target_length, device=device),
        "image": torch.randn(batch, 3, config.image_size, config.image_size, device=device),
        "video": torch.randn(batch, 3, config.num_frames, config.video_size, config.video_size, device=device),
    }


def training_step(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=torch.cuda.is_available())
    device = next(model.parameters()).device.type

    def step(batch):
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def memory_table(config, values, device):
    """Bytes of parameters, gradients, optimiser and activations of one step, image to video."""
    model = prepare(OmniLatentModel(config), device, False)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"\nparameters {count / 1e6:.1f} M")
    if device != "cuda":
        return
    torch.cuda.empty_cache()
    batch = lay_out(config, {"image": values["image"]}, {"video": values["video"]}, contrast=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    held = {"parameters, fp32": sum(parameter.nbytes for parameter in model.parameters())}
    for _ in range(2):  # the second step has the optimiser's state in place
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(**batch).loss
        after_forward = torch.cuda.memory_allocated()
        loss.backward()
        peak = torch.cuda.max_memory_allocated()
        held["gradients, fp32"] = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    held["AdamW's two moments, fp32"] = sum(
        tensor.nbytes for state in optimizer.state.values() for tensor in state.values() if torch.is_tensor(tensor)
    )
    held["activations kept for the backward pass, bf16, checkpointed"] = after_forward - before
    held["peak above parameters and moments, during the backward pass"] = peak - before
    for name, size in held.items():
        print(f"   {size / 2**20:>8.0f} MiB  {name}")
    del model, optimizer
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def count_flops(config, batch, device):
    model = OmniLatentModel(config).to(device).train()
    with FlopCounterMode(display=False) as counter, torch.autocast(device, dtype=torch.bfloat16):
        model(**batch).loss.backward()
    return counter.get_total_flops()


def matmul_ceiling(device):
    size = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / timed(lambda: a @ b, 20, device)


def timed(function, repeats, device):
    """Median seconds of a call."""
    for _ in range(3):
        function()
    seconds = []
    for _ in range(repeats):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
