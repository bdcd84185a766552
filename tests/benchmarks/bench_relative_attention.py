"""Attention with a trainable relative position bias, forward and backward, beside attention without one.

    python tests/benchmarks/bench_relative_attention.py [--shapes 256x12x14 16x12x56] [--tune] [--dtype bfloat16]

A shape is batch x heads x side of the grid, with heads of 64. Peers: sdpa without bias, sdpa with the bias written out
and its gradient, cuDNN's attention with the bias written out and no gradient for it. Ratios are to sdpa without bias;
memory is what forward and backward need beyond queries, keys, values and their gradients.
"""

import argparse
import contextlib
import itertools
import statistics

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from omnilatent.modeling_omni.layers import relative_kernels
from omnilatent.modeling_omni.layers.relative_attention import relative_attention
from omnilatent.modeling_omni.layers.relative_bias import RelativeBias
from omnilatent.modeling_omni.layers.relative_position import num_relative_positions

WIDTH = 64


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=["256x12x14", "16x12x56"])
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--tune", action="store_true", help="try tiles for each kernel and print the best")
    arguments = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {arguments.dtype}")
    for shape in arguments.shapes:
        batch, heads, side = map(int, shape.split("x"))
        case = make_case(batch, heads, side, getattr(torch, arguments.dtype))
        if arguments.tune:
            tune(case)
        print(f"\n{batch} x {heads} x {side * side} x {WIDTH}")
        base = None
        for name, forward in FORMS.items():
            try:
                seconds, memory = measure(forward, *case)
            except (RuntimeError, torch.OutOfMemoryError) as error:
                print(f"{name:>28}  {str(error).splitlines()[0][:60]}")
                continue
            base = base or seconds
            print(f"{name:>28} {seconds * 1e3:8.3f} ms  {seconds / base:6.2f}  {memory / 2**20:8.1f} MiB")


def make_case(batch, heads, side, dtype):
    torch.manual_seed(0)
    shape = (batch, side * side, heads, WIDTH)
    states = [torch.randn(shape, device="cuda", dtype=dtype).transpose(1, 2).requires_grad_() for _ in range(3)]
    table = torch.randn(num_relative_positions((side, side)), heads, device="cuda").mul(0.1).requires_grad_()
    weight = torch.randn(shape, device="cuda", dtype=dtype).transpose(1, 2)
    return states, table, (side, side), weight


def without_bias(states, table, size):
    return F.scaled_dot_product_attention(*states), states


def written_out(states, table, size):
    bias = RelativeBias(table, size, size).dense().to(states[0].dtype)
    return F.scaled_dot_product_attention(*states, attn_mask=bias), [*states, table]


def cudnn_frozen(states, table, size):
    bias = RelativeBias(table.detach(), size, size).dense().to(states[0].dtype)
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return F.scaled_dot_product_attention(*states, attn_mask=bias), states


def looked_up(states, table, size):
    return relative_attention(*states, RelativeBias(table, size, size)), [*states, table]


def looked_up_frozen(states, table, size):
    return relative_attention(*states, RelativeBias(table.detach(), size, size)), states


FORMS = {
    "sdpa without bias": without_bias,
    "sdpa, bias written out": written_out,
    "cuDNN, frozen, written out": cudnn_frozen,
    "looked up": looked_up,
    "looked up, frozen": looked_up_frozen,
}


def measure(forward, states, table, size, weight, repeats=30):
    def step():
        output, given = forward(states, table, size)
        torch.autograd.grad(output, given, weight)

    for _ in range(3):
        step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    memory = torch.cuda.max_memory_allocated() - before - sum(tensor.nbytes for tensor in states)
    # the device waits while the CPU queues all steps, so that the figures are the device's on a slow host too
    torch.cuda._sleep(200_000_000)
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for start, end in events:
        start.record()
        step()
        end.record()
    torch.cuda.synchronize()
    seconds = [start.elapsed_time(end) / 1e3 for start, end in events]
    return statistics.median(seconds), memory


def tune(case):
    """Set each kernel's fastest tile, one kernel after the other."""
    for kernel in relative_kernels.TILES:
        best = None
        for tile in itertools.product((32, 64, 128), (32, 64, 128), (4, 8), (2, 3)):
            kept, relative_kernels.TILES[kernel] = relative_kernels.TILES[kernel], tile
            with contextlib.suppress(Exception):  # too large for the device's shared memory
                seconds, _ = measure(looked_up, *case, repeats=5)
                if best is None or seconds < best[0]:
                    best = seconds, tile
            relative_kernels.TILES[kernel] = kept
        relative_kernels.TILES[kernel] = best[1]
        print(f"tile of {kernel}: {best[1]}, {best[0] * 1e3:.3f} ms in all")


if __name__ == "__main__":
    main()
