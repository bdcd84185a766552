"""A training step of a ViT with relative position bias, beside the same ViT without it, timm's two and BEiT.

    python -m tests.benchmarks.bench_relpos_vit [--eager] [--batch-size 256] [--forms "ours" "timm"]
    OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_relpos_vit --device cpu --small --rounds 20 --steps 1

Forward, cross-entropy, backward and AdamW, in bfloat16 under autocast on a GPU and in float32 on the CPU, as Trainer runs
them; ViT-B/16 for 224 pixels by default, compiled unless --eager or on the CPU. All forms are warmed up first and then
timed in turns, so that a change of clocks meets them all; the figure is the median of the rounds. Memory held: what lies
between forward and backward, beyond weights. A form that fails prints why and leaves the others alone.
"""

import argparse
import contextlib
import statistics
import time
import traceback

import timm
import torch
from torch.nn import functional as F
from transformers import BeitConfig, BeitForImageClassification

from omnilatent import RelPosViTConfig, RelPosViTForImageClassification

BASE = {"width": 768, "depth": 12, "heads": 12, "image": 224, "patch": 16, "labels": 1000, "batch": 256}
SMALL = {"width": 192, "depth": 4, "heads": 3, "image": 64, "patch": 8, "labels": 100, "batch": 16}
WITHOUT, LOOKED_UP, WRITTEN_OUT = "ours, no bias, sdpa", "ours, bias, relative", "ours, bias, sdpa"
TIMM, TIMM_MEAN = "timm vit_base_patch16_224", "timm vit_base, mean pooling"
TIMM_MLP, TIMM_TABLE = "timm vit_relpos_base (mlp)", "timm vit_relpos_base (table)"
BEIT = "BEiT base, sdpa"


def ours(sizes, attention, **settings):
    config = RelPosViTConfig(
        hidden_size=sizes["width"],
        num_hidden_layers=sizes["depth"],
        num_attention_heads=sizes["heads"],
        image_size=sizes["image"],
        patch_size=sizes["patch"],
        num_labels=sizes["labels"],
        **settings,
    )
    model = RelPosViTForImageClassification(config)
    model.set_attn_implementation(attention)
    return model, lambda pixels: model(pixel_values=pixels).logits


def theirs(sizes, name, **settings):
    model = timm.create_model(
        name,
        img_size=sizes["image"],
        patch_size=sizes["patch"],
        embed_dim=sizes["width"],
        depth=sizes["depth"],
        num_heads=sizes["heads"],
        num_classes=sizes["labels"],
        **settings,
    )
    return model, model


def beit(sizes):
    config = BeitConfig(
        hidden_size=sizes["width"],
        num_hidden_layers=sizes["depth"],
        num_attention_heads=sizes["heads"],
        intermediate_size=4 * sizes["width"],
        image_size=sizes["image"],
        patch_size=sizes["patch"],
        num_labels=sizes["labels"],
        use_relative_position_bias=True,
        drop_path_rate=0.0,
    )
    model = BeitForImageClassification(config)
    model.set_attn_implementation("sdpa")
    return model, lambda pixels: model(pixel_values=pixels).logits


FORMS = {
    WITHOUT: lambda sizes: ours(sizes, "sdpa", position_embedding="none"),
    LOOKED_UP: lambda sizes: ours(sizes, "relative"),
    WRITTEN_OUT: lambda sizes: ours(sizes, "sdpa"),
    "ours, shared bias, relative": lambda sizes: ours(sizes, "relative", share_position_bias=True),
    "ours, class token, no bias": lambda sizes: ours(
        sizes, "sdpa", position_embedding="absolute", use_class_token=True, pooling="cls"
    ),
    "ours, class token, relative": lambda sizes: ours(sizes, "relative", use_class_token=True, pooling="cls"),
    TIMM: lambda sizes: theirs(sizes, "vit_base_patch16_224"),
    TIMM_MEAN: lambda sizes: theirs(sizes, "vit_base_patch16_224", class_token=False, global_pool="avg"),
    TIMM_MLP: lambda sizes: theirs(sizes, "vit_relpos_base_patch16_224"),
    TIMM_TABLE: lambda sizes: theirs(sizes, "vit_relpos_base_patch16_224", rel_pos_type="bias"),
    BEIT: beit,
}
# what issue and README speak of: (numerator, denominator, least)
RATIOS = [
    (LOOKED_UP, WITHOUT, 0.93),
    (WITHOUT, TIMM, 1.0),
    (WITHOUT, TIMM_MEAN, None),
    (LOOKED_UP, TIMM_MLP, 1.3),
    (LOOKED_UP, TIMM_TABLE, None),
    (LOOKED_UP, BEIT, None),
    (LOOKED_UP, WRITTEN_OUT, None),
    ("ours, class token, relative", "ours, class token, no bias", None),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help=f"sizes {SMALL}")
    parser.add_argument("--batch-size", type=int, help="default: 256, or 16 with --small")
    parser.add_argument("--image-size", type=int, help="default: 224, or 64 with --small")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--forms", nargs="+", default=[""], help="only forms whose names begin with one of these")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="steps of a form in a round")
    parser.add_argument("--traceback", action="store_true", help="show where a form fails")
    arguments = parser.parse_args()
    sizes = dict(SMALL if arguments.small else BASE)
    sizes |= {"batch": arguments.batch_size or sizes["batch"], "image": arguments.image_size or sizes["image"]}
    device, compiled = torch.device(arguments.device), not arguments.eager and arguments.device != "cpu"
    torch._dynamo.config.recompile_limit = 64  # ours differ in settings, and share their code
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    print(
        f"{name}, torch {torch.__version__}, timm {timm.__version__}, {'compiled' if compiled else 'eager'}, "
        f"{'bfloat16' if device.type == 'cuda' else 'float32'}\n{sizes}",
        flush=True,
    )

    steps, held, seconds = {}, {}, {}
    for form, make in FORMS.items():
        if not form.startswith(tuple(arguments.forms)):
            continue
        try:
            steps[form] = TrainingStep(make, sizes, device, compiled)
            for _ in range(3):
                steps[form]()
            held[form] = steps[form].memory_held()
            seconds[form] = []
            print(f"{form} is warm", flush=True)
        except Exception as error:  # a form that fails must not cost the others their figures
            steps.pop(form, None)
            report(form, error, arguments.traceback)
    for _ in range(arguments.rounds):
        for form in list(seconds):
            try:
                seconds[form].append(timed(steps[form], arguments.steps, device))
            except Exception as error:
                del seconds[form]
                report(form, error, arguments.traceback)
    medians = {form: statistics.median(rounds) for form, rounds in seconds.items()}
    print_table(medians, seconds, held, sizes)


class TrainingStep:
    """One step of a form on one random batch."""

    def __init__(self, make, sizes, device, compiled):
        torch.manual_seed(0)
        model, forward = make(sizes)
        self.model = model.to(device).train()
        self.forward = torch.compile(forward) if compiled else forward
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=device.type == "cuda")
        self.pixels = torch.randn(sizes["batch"], 3, sizes["image"], sizes["image"], device=device)
        self.labels = torch.randint(sizes["labels"], (sizes["batch"],), device=device)
        self.autocast = torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else contextlib.nullcontext()

    def loss(self):
        with self.autocast:
            return F.cross_entropy(self.forward(self.pixels), self.labels)

    def __call__(self):
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def memory_held(self):
        """Bytes between forward and backward, and bytes at the peak of a step, each beyond what lies there before."""
        if self.pixels.device.type != "cuda":
            return None
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        loss = self.loss()
        held = torch.cuda.memory_allocated() - before
        loss.backward()
        peak = torch.cuda.max_memory_allocated() - before
        self.optimizer.zero_grad()
        return held, peak


def timed(step, count, device):
    """Seconds of a step; on the CPU those that this process works, since others may work there as well."""
    on_gpu = device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    if on_gpu:
        step()
        torch.cuda.synchronize()
    begun = clock()
    for _ in range(count):
        step()
    if on_gpu:
        torch.cuda.synchronize()
    return (clock() - begun) / count


def print_table(medians, seconds, held, sizes):
    print(f"\n{'form':>30} {'ms/step':>9} {'spread':>7} {'images/s':>9} {'GiB held':>9} {'MiB of bias per layer':>22}")
    for form, median in medians.items():
        spread = (max(seconds[form]) - min(seconds[form])) / median
        memory, extra = " " * 9, ""
        if held[form] is not None:
            memory = f"{held[form][0] / 2**30:9.3f}"
            if form.startswith("ours, bias") and held.get(WITHOUT):
                more = [(with_bias - without) / 2**20 for with_bias, without in zip(held[form], held[WITHOUT])]
                extra = f"{more[0] / sizes['depth']:.3f} held, {more[1] / sizes['depth']:.3f} peak"
        print(f"{form:>30} {median * 1e3:9.2f} {spread:7.1%} {sizes['batch'] / median:9.1f} {memory} {extra:>22}")
    grid = 2 * sizes["image"] // sizes["patch"] - 1
    print(f"A table has {grid * grid * sizes['heads'] * 4 / 2**20:.3f} MiB.\n")
    for first, second, least in RATIOS:
        if first in medians and second in medians:
            wanted = f"   (at least {least})" if least else ""
            print(f"{medians[second] / medians[first]:6.3f}  {first} / {second}{wanted}")


def report(form, error, with_traceback):
    told = "".join(traceback.format_exception(error)) if with_traceback else str(error).strip().split("\n")[0][:300]
    print(f"{form} fails: {type(error).__name__}: {told}", flush=True)


if __name__ == "__main__":
    main()
