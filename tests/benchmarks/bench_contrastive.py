"""Memory, time and error of the contrastive losses, forward and backward, beside the dense loss of open_clip.

    python tests/benchmarks/bench_contrastive.py                                    # one GPU
    torchrun --nproc_per_node 2 tests/benchmarks/bench_contrastive.py               # gathered, on 2 or 4 GPUs
    python tests/benchmarks/bench_contrastive.py --small                            # a try on the CPU

Memory is the peak above what was allocated before the loss was called, that is beyond the embeddings, and includes
the gradients of the embeddings. TF32 is off. In bf16 the embeddings are bf16 and the dense loss runs under autocast,
as open_clip trains. Errors are ||found - reference|| / ||reference|| against float64.
"""

import argparse
import functools
import os
import statistics
import time

import torch
import torch.distributed as dist
from torch.nn import functional as F

from omnilatent.modeling_omni.losses import info_nce_loss, sigmoid_loss

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SCALES = {"InfoNCE": (100.0,), "sigmoid": (10.0, -10.0)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="tiny sizes, for a machine without a GPU")
    parser.add_argument("--size", type=int, default=512, help="of an embedding")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls, of which the median counts")
    parser.add_argument("--tile", type=int, nargs=2, help="rows and columns of a tile, if not the default")
    arguments = parser.parse_args()
    if arguments.small:
        torch.set_num_threads(1)
        batches, error_batch, largest = (96, 256), 64, 512
    else:
        batches, error_batch, largest = (8192, 32768, 65536), 4096, 1048576
    torch.backends.cuda.matmul.allow_tf32 = False
    if arguments.tile:
        set_tile(arguments.tile)
    if "RANK" in os.environ:
        return ranks_table(arguments.size, batches[-1], error_batch)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"device {torch.cuda.get_device_name() if device == 'cuda' else 'cpu'}, torch {torch.__version__}")
    error_table(error_batch, arguments.size, device)
    speed_table(batches, largest, arguments.size, arguments.repeats, device)


# --- what is measured ------------------------------------------------------------------------------------------------


def dense_info_nce(first, second, scale):
    """The arithmetic of open_clip's ClipLoss on one GPU, on embeddings that its towers normalise."""
    first, second = F.normalize(first, dim=-1), F.normalize(second, dim=-1)
    logits_first = scale * first @ second.T
    logits_second = scale * second @ first.T
    labels = torch.arange(len(first), device=first.device)
    return (F.cross_entropy(logits_first, labels) + F.cross_entropy(logits_second, labels)) / 2


def dense_sigmoid(first, second, scale, bias):
    """The arithmetic of open_clip's SigLipLoss on one GPU."""
    first, second = F.normalize(first, dim=-1), F.normalize(second, dim=-1)
    logits = scale * first @ second.T + bias
    labels = 2 * torch.eye(len(first), device=first.device, dtype=logits.dtype) - 1
    return -F.logsigmoid(labels * logits).sum() / len(first)


DENSE = {"InfoNCE": dense_info_nce, "sigmoid": dense_sigmoid}
OURS = {"InfoNCE": info_nce_loss, "sigmoid": sigmoid_loss}


def make_leaves(batch, size, numbers, dtype, device, seed=0):
    """Embeddings that are related, so that some rows are found and some are not, and the loss's numbers."""
    generator = torch.Generator(device).manual_seed(seed)
    first = torch.randn(batch, size, generator=generator, device=device)
    second = torch.randn(batch, size, generator=generator, device=device).mul_(6).add_(first)
    embeddings = [x.to(dtype).requires_grad_() for x in (first, second)]
    return embeddings + [torch.tensor(number, device=device, requires_grad=True) for number in numbers]


def step(loss, leaves):
    """Loss and gradients, which are also what is left in memory."""
    value = loss(*leaves)
    return [value.detach(), *torch.autograd.grad(value, leaves)]


def dense_step(loss, leaves):
    with torch.autocast(leaves[0].device.type, torch.bfloat16, enabled=leaves[0].dtype == torch.bfloat16):
        value = loss(*leaves)
    return [value.detach(), *torch.autograd.grad(value, leaves)]


# --- tables ----------------------------------------------------------------------------------------------------------


def error_table(batch, size, device):
    """Worst of the errors of the gradients of either side; the gradient of the scale and the loss beside it."""
    print(f"\nerror against float64, B = {batch:,}, d = {size}")
    print("| loss | embeddings | form | loss | embeddings' gradient | scale's gradient |")
    print("|---|---|---|---|---|---|")
    for name, numbers in SCALES.items():
        for label, dtype in DTYPES.items():
            leaves = make_leaves(batch, size, numbers, dtype, device)
            exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
            expected = step(OURS[name], exact)
            forms = {
                "dense": functools.partial(dense_step, DENSE[name]),
                "plain": functools.partial(step, OURS[name]),
                "tiled": functools.partial(step, functools.partial(OURS[name], tiled=True)),
            }
            for form, run in forms.items():
                errors = [((x.double() - y).norm() / y.norm()).item() for x, y in zip(run(leaves), expected)]
                print(f"| {name} | {label} | {form} | {errors[0]:.1e} | {max(errors[1:3]):.1e} | {errors[3]:.1e} |")


def speed_table(batches, largest, size, repeats, device):
    print(f"\nforward and backward, d = {size}")
    print("| loss | embeddings | B | dense ms | tiled ms | ratio | dense GiB | tiled GiB |")
    print("|---|---|---|---|---|---|---|---|")
    for name, numbers in SCALES.items():
        for label, dtype in DTYPES.items():
            for batch in batches:
                leaves = make_leaves(batch, size, numbers, dtype, device)
                dense = measure(functools.partial(dense_step, DENSE[name], leaves), repeats, device)
                tiled = functools.partial(step, functools.partial(OURS[name], tiled=True), leaves)
                ours = measure(tiled, repeats, device)
                ratio = f"{dense[0] / ours[0]:.2f}"
                print(
                    f"| {name} | {label} | {batch:,} | {dense[0]:.1f} | {ours[0]:.1f} | {ratio} "
                    f"| {dense[1]:.2f} | {ours[1]:.2f} |",
                    flush=True,
                )
    numbers = SCALES["InfoNCE"]
    leaves = make_leaves(largest, size, numbers, torch.bfloat16, device)
    ours = measure(functools.partial(step, functools.partial(info_nce_loss, tiled=True), leaves), 1, device, warm=0)
    print(f"| InfoNCE | bf16 | {largest:,} | - | {ours[0]:.1f} | - | - | {ours[1]:.2f} |")


def measure(run, repeats, device, warm=1):
    """Median milliseconds and the peak of memory in GiB; not a number where memory did not suffice."""
    try:
        times = [timed(run, device) for _ in range(warm + repeats)][warm:]
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return float("nan"), float("nan")
    return statistics.median(ms for ms, _ in times), max(peak for _, peak in times)


def timed(run, device):
    if device == "cpu":
        start = time.perf_counter()
        run()
        return 1000 * (time.perf_counter() - start), float("nan")
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, start, end = torch.cuda.memory_allocated(), *(torch.cuda.Event(enable_timing=True) for _ in "ab")
    start.record()
    result = run()
    end.record()
    torch.cuda.synchronize()
    del result
    return start.elapsed_time(end), (torch.cuda.max_memory_allocated() - before) / 2**30


def ranks_table(size, batch, error_batch):
    """Gathered against one process: equal gradients, and memory per rank for the same whole batch."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if cuda else "gloo")
    rank, ranks, device = dist.get_rank(), dist.get_world_size(), "cuda" if cuda else "cpu"
    rows = []
    for name, numbers in SCALES.items():
        loss = functools.partial(OURS[name], tiled=True)
        gathered = functools.partial(loss, group=dist.group.WORLD)

        leaves = make_leaves(error_batch, size, numbers, torch.float32, device)
        expected = step(loss, leaves)
        found = step(gathered, share(leaves, rank, ranks))
        expected[1:3] = [gradient.chunk(ranks)[rank] for gradient in expected[1:3]]
        found[1:3] = [gradient / ranks for gradient in found[1:3]]  # DistributedDataParallel's mean, here by hand
        for number in found[3:]:
            dist.all_reduce(number)
            number /= ranks
        errors = [((x - y).norm() / y.norm()).item() for x, y in zip(found, expected)]

        for label, dtype in DTYPES.items():
            own = share(make_leaves(batch, size, numbers, dtype, device), rank, ranks)
            ms, peak = measure(functools.partial(step, gathered, own), 3, device)
            rows.append(f"| {name} | {label} | {batch:,} | {ranks} | {ms:.1f} | {peak:.2f} | {max(errors):.1e} |")
    everyone = [None] * ranks
    dist.all_gather_object(everyone, rows)
    if rank == 0:
        print(f"\ngathered and tiled, d = {size}; the difference from one process in fp32 at B = {error_batch:,}")
        print("| loss | embeddings | B of all ranks | ranks | ms | GiB a rank | difference |")
        print("|---|---|---|---|---|---|---|")
        print("\n".join(row for rows in zip(*everyone) for row in rows))
    dist.destroy_process_group()


def share(leaves, rank, ranks):
    """This rank's rows as leaves of their own; the numbers as they are."""
    own = [leaf.detach().chunk(ranks)[rank].clone().requires_grad_() for leaf in leaves[:2]]
    return own + leaves[2:]


def set_tile(shape):
    from omnilatent.modeling_omni.losses.torch_tiles import TorchTiles

    TorchTiles.shape = tuple(shape)
    if torch.cuda.is_available():
        from omnilatent.modeling_omni.losses.triton_tiles import TritonTiles

        TritonTiles.shape = tuple(shape)


if __name__ == "__main__":
    main()
