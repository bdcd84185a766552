"""Attention over long sequences, forward and backward or forward only, beside torch's attention in the same run.

    python tests/benchmarks/bench_long_attention.py --device cuda                  # 65536 tokens, bfloat16
    python tests/benchmarks/bench_long_attention.py --device cpu                   # 8192 tokens, float32
    python tests/benchmarks/bench_long_attention.py --errors                       # of estimates of softmax
    python tests/benchmarks/bench_long_attention.py --device cuda --length 16384 --window 512 --causal --forms sparse

Prints for each form the median time, how many times faster it is than sdpa, the memory that forward and backward need
beyond queries, keys, values and the output's gradient (so the gradients count) and its ratio to sdpa's, and the same
memory at half the length, whose ratio is 2 where memory is linear. A form that fails prints its error. On CUDA sdpa is
what torch chooses by itself; "flash" is its flash kernel. On a CPU the time of its cores is compared as well, which
others who share them disturb less; memory is not measured.
"""

import argparse
import statistics
import time

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from omnilatent.modeling_omni.layers.feature_maps import EluFeatures, RandomFeatures
from omnilatent.modeling_omni.layers.gathered_blocks import gathered_attention
from omnilatent.modeling_omni.layers.linear_attention import linear_attention
from omnilatent.modeling_omni.layers.sparse_attention import sparse_attention


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--length", type=int, help="tokens; 65536 on CUDA, 8192 on a CPU")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--width", type=int, default=64, help="of a head")
    parser.add_argument("--window", type=int, default=256, help="tokens on each side")
    parser.add_argument("--global-tokens", type=int, default=4)
    parser.add_argument("--random-features", type=int, default=256)
    parser.add_argument("--dtype", help="bfloat16 on CUDA, float32 on a CPU")
    parser.add_argument("--causal", action="store_true")
    parser.add_argument("--forward", action="store_true", help="without backward")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--budget", type=float, default=60.0, help="seconds, after which no further form is begun")
    parser.add_argument("--forms", nargs="+", help="only those whose name holds one of these words")
    parser.add_argument("--errors", action="store_true", help="print how far estimates are from softmax, and no times")
    arguments = parser.parse_args()
    if arguments.errors:
        return print_errors()
    on_cuda = arguments.device.startswith("cuda")
    arguments.length = arguments.length or (65536 if on_cuda else 8192)
    arguments.dtype = arguments.dtype or ("bfloat16" if on_cuda else "float32")
    name = torch.cuda.get_device_name() if on_cuda else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, torch {torch.__version__}, {vars(arguments)}")
    begin, base = time.perf_counter(), None
    for name, form in make_forms(arguments).items():
        wanted = not arguments.forms or any(word in name for word in ["sdpa", *arguments.forms])
        if not wanted:
            continue
        if time.perf_counter() - begin > arguments.budget:
            print(f"{name:>26}  not begun: over the budget of {arguments.budget:.0f} s")
            continue
        try:
            first, seconds, of_cores, memory = measure(form, arguments, arguments.length, arguments.repeats)
            in_time = on_cuda and time.perf_counter() - begin < arguments.budget
            half = measure(form, arguments, arguments.length // 2, 1)[-1] if in_time else None
        except Exception as error:
            print(f"{name:>26}  {type(error).__name__}: {str(error).strip()[:300]}", flush=True)
            continue
        base = base or (seconds, of_cores, memory)
        line = f"{name:>26} {seconds * 1e3:10.2f} ms {base[0] / seconds:7.2f} x faster  (first call {first:.1f} s)"
        if on_cuda:
            mib = memory / 2**20
            line += f"  {mib:8.1f} MiB, {memory / base[2]:5.2f} of sdpa's"
            line += f", {memory / half:5.2f} of half the length's" if half else ""
        else:
            line += f"  {of_cores:8.2f} s of cores, {base[1] / of_cores:7.2f} x less"
        print(line, flush=True)


def make_forms(arguments) -> dict:
    """Names of forms and functions of queries, keys and values (B, H, N, d). The first is what all are compared to."""
    causal, device = arguments.causal, torch.device(arguments.device)
    pattern = {"window_size": arguments.window, "is_causal": causal, "training": True}
    gathered = {"window_size": arguments.window, "num_global_tokens": arguments.global_tokens, "is_causal": causal}
    random_features = RandomFeatures(arguments.width, arguments.random_features).to(device)
    elu = EluFeatures()

    def flash(query, key, value):
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return F.scaled_dot_product_attention(query, key, value, is_causal=causal)

    forms = {
        "sdpa": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=causal),
        "sdpa, flash": flash,
        "linear": lambda q, k, v: linear_attention(q, k, v, elu, is_causal=causal),
        "performer": lambda q, k, v: linear_attention(q, k, v, random_features, is_causal=causal),
        "sparse": lambda q, k, v: sparse_attention(q, k, v, num_global_tokens=arguments.global_tokens, **pattern),
        "sparse, gathered blocks": lambda q, k, v: gathered_attention(q, k, v, **gathered),
        "LSH (Reformer), 4 rounds": lambda q, k, v: lsh_attention(q, v, 4, causal),
        # what has to be compiled once more comes last: the budget may end before
        "sparse, window only": lambda q, k, v: sparse_attention(q, k, v, num_global_tokens=0, **pattern),
    }
    forms["linear, compiled"] = torch.compile(forms["linear"], dynamic=False)
    forms["performer, compiled"] = torch.compile(forms["performer"], dynamic=False)
    if device.type != "cuda":  # where blocks are gathered anyway, and there is one sdpa
        kept = ("sdpa", "linear", "performer", "sparse", "LSH (Reformer), 4 rounds")
        forms = {name: forms[name] for name in kept}
    return forms


def lsh_attention(query, value, rounds, is_causal, chunk=64):
    """Reformer's attention (Kitaev et al. 2020, section 2), which the library leaves out; queries are the keys.

    Each round sorts tokens by a random hash; a chunk of them attends to itself and to the chunk before.
    """
    length = query.shape[2]
    key = F.normalize(query, dim=-1)
    rotations = torch.randn(query.shape[-1], rounds * (length // chunk // 2), device=query.device, dtype=query.dtype)
    turned = (key.detach() @ rotations).unflatten(-1, (rounds, -1)).movedim(-2, 2)  # (B, H, rounds, N, buckets / 2)
    order = torch.cat([turned, -turned], dim=-1).argmax(dim=-1).argsort(dim=-1, stable=True)  # (B, H, rounds, N)

    def in_chunks(states):  # (B, H, N, d) -> (B, H, rounds, chunks, chunk, d)
        index = order.unsqueeze(-1).expand(*order.shape, states.shape[-1])
        return states.unsqueeze(2).expand(-1, -1, rounds, -1, -1).gather(3, index).unflatten(3, (-1, chunk))

    def with_chunk_before(states):
        return torch.cat([states.roll(1, dims=3), states], dim=4)

    place = order.unflatten(3, (-1, chunk)).unsqueeze(-1)
    of_key = with_chunk_before(place).transpose(-1, -2)
    scores = in_chunks(query) @ with_chunk_before(in_chunks(key)).transpose(-1, -2) * query.shape[-1] ** -0.5
    scores = scores.masked_fill(place == of_key, -1e4)  # a token is most like itself
    scores = scores.masked_fill(of_key > place, -1e9) if is_causal else scores
    log_sum = scores.float().logsumexp(dim=-1, keepdim=True)
    output = (scores - log_sum).exp().to(value.dtype) @ with_chunk_before(in_chunks(value))
    back = order.argsort(dim=-1).unsqueeze(-1)
    output = output.flatten(3, 4).gather(3, back.expand(*order.shape, value.shape[-1]))
    share = log_sum.flatten(3, 4).gather(3, back).softmax(dim=2)
    return (output * share.to(output.dtype)).sum(dim=2)


def print_errors():
    """Norm of the difference to full attention over the norm of that, for random features and for LSH."""
    torch.manual_seed(0)
    for deviation in (0.5, 1.0):
        query, key, value = (torch.randn(2, 3, 50, 16) for _ in range(3))
        full = F.scaled_dot_product_attention(query * deviation, key * deviation, value)
        for count in (16, 256, 4096):
            found = linear_attention(query * deviation, key * deviation, value, RandomFeatures(16, count))
            error = (found - full).norm() / full.norm()
            print(f"performer, deviation {deviation}, {count} features: {error:.2f}")
    tokens, value = 4096, torch.randn(1, 2, 4096, 64)
    clusters = torch.randn(tokens // 32, 64).repeat(32, 1) * 8 + torch.randn(tokens, 64)
    inputs = {"normal queries": torch.randn(1, 2, tokens, 64), "clusters of 32 tokens": clusters.expand(1, 2, -1, -1)}
    for name, query in inputs.items():
        scores = query @ F.normalize(query, dim=-1).transpose(-1, -2) / 8
        full = scores.masked_fill(torch.eye(tokens, dtype=torch.bool), -1e4).softmax(dim=-1) @ value
        for rounds in (4, 16):
            error = (lsh_attention(query, value, rounds, False) - full).norm() / full.norm()
            print(f"LSH, {name}, {rounds} rounds: {error:.2f}")


def measure(form, arguments, length, repeats):
    """Seconds of the first call, median seconds of the later ones and of the cores, and bytes at the peak of one."""
    torch.manual_seed(0)
    shape = (arguments.batch, length, arguments.heads, arguments.width)
    options = {"device": arguments.device, "dtype": getattr(torch, arguments.dtype)}
    states = [torch.randn(shape, **options).transpose(1, 2).requires_grad_() for _ in range(3)]
    weight = torch.randn(shape, **options).transpose(1, 2)
    on_cuda = arguments.device.startswith("cuda")

    def step():
        begin, busy = time.perf_counter(), time.process_time()
        if arguments.forward:
            with torch.no_grad():
                form(*states)
        else:
            torch.autograd.grad(form(*states), states, weight, allow_unused=True)  # LSH has no keys
        if on_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - begin, time.process_time() - busy

    if on_cuda:
        torch.cuda.synchronize()
    (first, _), memory = step(), None
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        memory = torch.cuda.max_memory_allocated() - before
    seconds, of_cores = zip(*(step() for _ in range(repeats)))
    return first, statistics.median(seconds), statistics.median(of_cores), memory


if __name__ == "__main__":
    main()
