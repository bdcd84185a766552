"""How well does a sound find its video? The aligner from new towers, and its head beside those of others.

    python tests/benchmarks/bench_alignment.py --minutes 5 --workers 16
    python tests/benchmarks/bench_alignment.py --heads --seeds 3 --workers 16
    python tests/benchmarks/bench_alignment.py --small --minutes 5

The first writes a small world of .mp4 files, decodes each once, trains the aligner and its towers from nothing for so
many minutes, and prints retrieval among 1,000 held-out pairs while it learns: among scenes that were not shown, and
among such with combinations of colour and shape that were never shown. Where the shape flies can be heard as well as
seen, so that pairs can be told apart. The third does the same on two cores with 100 pairs.

`--heads` trains both towers alone to name the factors of a scene, freezes them, and trains several heads with their
losses on the same features: ours; CLIP's (linear layer on the mean token, InfoNCE); SigLIP's (the same, sigmoid loss);
ImageBind's (MLP on the mean token, InfoNCE with a fixed temperature); PE-AV's as transformers 5.23 has it, whose loss
has no negatives, and with labels of -1 for them and SigLIP's start.
"""

import argparse
import itertools
import math
import statistics
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from transformers.models.pe_audio_video.modeling_pe_audio_video import PeAudioVideoContrastiveHead, PeAudioVideoModel

from omnilatent import OmniNetConfig, OmniNetModel
from omnilatent.modeling_omni.losses import info_nce_loss, sigmoid_loss
from omnilatent.training import make_aligner, recall_at
from omnilatent.training.data import VideoCollection, VideoLoader, make_small_world
from omnilatent.training.data.small_world_scene import COLOURS, DIRECTIONS, SHAPES, SIZES, TIMES_OF_DAY

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SMALL = {
    "train_clips": 3000,
    "held_out": 100,
    "pixels": 32,
    "patch": 16,
    "width": 64,
    "layers": 2,
    "batch_size": 64,
    "fps": 4.0,
}
SPLITS = {"train": ("train", 0), "new scenes": ("train", 1), "new combinations": ("validation", 2)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/bench_alignment"))
    parser.add_argument("--small", action="store_true", help="sizes for two cores")
    parser.add_argument("--make-only", action="store_true", help="write the small world and stop")
    parser.add_argument("--heads", action="store_true", help="compare heads on frozen towers")
    parser.add_argument("--minutes", type=float, default=5.0, help="of training; with --heads of each head at most 2")
    parser.add_argument("--seeds", type=int, default=3, help="of each head")
    parser.add_argument("--steps", type=int, default=2000, help="of each head")
    parser.add_argument("--workers", type=int, default=0, help="processes that write and decode")
    parser.add_argument("--train-clips", type=int, default=20_000)
    parser.add_argument("--held-out", type=int, default=1000)
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--patch", type=int, default=8)
    parser.add_argument("--fps", type=float, default=8.0, help="frames per second that the model sees")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--learning-rate", type=float, default=4e-4)
    if parser.parse_known_args()[0].small:
        parser.set_defaults(**SMALL, learning_rate=2e-3)
    args = parser.parse_args()
    collections = {name: make_world(args, name) for name in SPLITS}
    if args.make_only:
        return
    torch.manual_seed(0)
    model, processor = make_aligner(args.pixels, args.patch, args.fps, width=args.width, layers=args.layers)
    begun = time.perf_counter()
    processor.fit_bands(next(iter(VideoLoader(collections["train"], 256)))["audio"])
    data = {name: decode(collection, processor, args.workers) for name, collection in collections.items()}
    print(f"decoded {', '.join(f'{len(d)} {name}' for name, d in data.items())}: {time.perf_counter() - begun:.0f} s")
    if args.heads:
        compare_heads(args, model, data)
    else:
        train_aligner(args, model, data)


# ---- data


def make_world(args, name):
    split, seed = SPLITS[name]
    folder = args.folder / f"{args.pixels}_{name.replace(' ', '_')}"
    count = args.train_clips if name == "train" else args.held_out
    make_small_world(folder, count, seed, split, pixels=args.pixels, num_workers=args.workers)
    return VideoCollection.from_folder(
        folder, clip_stride=2.0, fps=args.fps, video_size=args.pixels, image_size=args.pixels
    )


class Clips:
    """Frames, spectrograms and factors of all clips, on the device."""

    def __init__(self, frames, sounds, factors):
        self.frames, self.sounds, self.factors = frames, sounds, factors

    def __len__(self):
        return len(self.frames)

    def inputs(self, rows=slice(None)):
        return {
            "pixel_values_videos": self.frames[rows].float() / 127.5 - 1,
            "input_features": self.sounds[rows].float(),
        }

    def batches(self, size=100):
        return (self.inputs(slice(start, start + size)) for start in range(0, len(self), size))


def decode(collection, processor, workers):
    frames, sounds, factors = [], [], []
    for batch in VideoLoader(collection, 100, shuffle=False, epochs=1, num_workers=workers):
        frames.append(batch["video"].to(DEVICE))
        sounds.append(processor(audio=batch["audio"])["input_features"].half().to(DEVICE))
        factors += [read_factors(bytes(row[row > 2].sub(3).tolist()).decode()) for row in batch["text"]]
    return Clips(torch.cat(frames), torch.cat(sounds), torch.tensor(factors, device=DEVICE))


def read_factors(caption):
    """Numbers of size, colour, shape, time of day, place across and down in tenths, and direction."""
    kind, time_of_day, place, _ = caption.split(", ")
    size, colour, shape = kind.split()
    place, direction = place.removeprefix("at ").split()
    names = ((size, SIZES), (colour, COLOURS), (shape, SHAPES), (time_of_day, TIMES_OF_DAY), (direction, DIRECTIONS))
    return [*(list(known).index(name) for name, known in names), *map(int, place.split(","))]


FACTOR_SIZES = (len(SIZES), len(COLOURS), len(SHAPES), len(TIMES_OF_DAY), len(DIRECTIONS), 10, 10)


# ---- the aligner and its towers from nothing


def train_aligner(args, model, data):
    model.to(DEVICE).train()
    train = data["train"]
    model.center_on(**train.inputs(slice(0, args.batch_size)))
    print(f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.1f} M parameters")
    optimizer = make_optimizer(model, args.learning_rate)
    generator = torch.Generator(DEVICE).manual_seed(0)
    spent, shown, losses = 0.0, 0, []
    print(f"{'seconds':>8} {'steps':>6} {'loss':>6}  R@1, R@5, R@10 of video to audio; of audio to video")
    for step in itertools.count():
        begun = time.perf_counter()
        share = spent / (60 * args.minutes)
        set_learning_rate(optimizer, args.learning_rate * min(1, (step + 1) / 50), share)
        rows = torch.randperm(len(train), device=DEVICE, generator=generator)[: args.batch_size]
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda"):
            loss = model(**train.inputs(rows)).loss
        take_step(loss, model, optimizer)
        losses.append(loss.detach())
        if step % 20 == 19:
            torch.cuda.synchronize() if DEVICE.type == "cuda" else None
        spent += time.perf_counter() - begun
        if spent >= 6 * args.minutes * (shown + 1):  # ten lines
            shown += 1
            loss = torch.stack(losses[-20:]).mean().item()
            print(f"{spent:>8.0f} {step + 1:>6} {loss:>6.3f}", end="")
            for name in ("new scenes", "new combinations"):
                print(f"  {name}: {describe(*embed(model, data[name]))}", end="")
            print(flush=True)
            if shown == 10:
                return


@torch.no_grad()
def embed(model, clips):
    model.eval()
    with torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda"):
        outputs = [model(**inputs, return_loss=False) for inputs in clips.batches()]
    model.train()
    return tuple(
        torch.cat([getattr(out, f"{name}_embeds") for out in outputs]).float() for name in ("vision", "audio")
    )


def describe(video, audio):
    similarity = video @ audio.T
    return "; ".join(" ".join(f"{share:.1%}" for share in recall_at(m).values()) for m in (similarity, similarity.T))


def make_optimizer(model, rate):
    settings = {"lr": rate, "weight_decay": 0.05, "betas": (0.9, 0.98), "fused": DEVICE.type == "cuda"}
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], **settings)


def set_learning_rate(optimizer, rate, share):
    for group in optimizer.param_groups:
        group["lr"] = rate * (0.5 + 0.5 * math.cos(math.pi * min(1, share)))


def take_step(loss, model, optimizer):
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


# ---- heads on frozen towers


class Ours(nn.Module):
    def __init__(self, vision_size, audio_size, dim):
        super().__init__()
        sizes = {"vision_hidden_size": vision_size, "audio_hidden_size": audio_size, "text_hidden_size": None}
        self.model = OmniNetModel(
            OmniNetConfig(hidden_size=dim, projection_dim=dim, num_attention_heads=dim // 32, **sizes)
        )

    def start(self, vision, audio):
        self.model.center_on(vision_features=vision, audio_features=audio)

    def forward(self, vision, audio):
        output = self.model(vision_features=vision, audio_features=audio)
        return output.vision_embeds, output.audio_embeds, output.loss


class Pooled(nn.Module):
    """The mean token of each side through a read-out, and a loss."""

    def __init__(self, vision_size, audio_size, dim, read_out, scale, bias=None, learned=True):
        super().__init__()
        self.vision, self.audio = read_out(vision_size, dim), read_out(audio_size, dim)
        self.scale = nn.Parameter(torch.tensor([math.log(scale)]), requires_grad=learned)
        self.bias = None if bias is None else nn.Parameter(torch.tensor([float(bias)]))

    def start(self, vision, audio):
        pass

    def forward(self, vision, audio):
        vision, audio = (
            F.normalize(x.float(), dim=-1) for x in (self.vision(vision.mean(1)), self.audio(audio.mean(1)))
        )
        scale = self.scale.clamp(max=math.log(100)).exp().squeeze()
        if self.bias is None:
            return vision, audio, info_nce_loss(vision, audio, scale)
        return vision, audio, sigmoid_loss(vision, audio, scale, self.bias)


class PerceptionEncoderShipped(nn.Module):
    """PE-AV's heads, scale, bias and loss as transformers has them."""

    def __init__(self, vision_size, audio_size, dim):
        super().__init__()
        self.vision, self.audio = (PeAudioVideoContrastiveHead(size, dim) for size in (vision_size, audio_size))
        self.scale, self.bias = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    def start(self, vision, audio):
        pass

    def forward(self, vision, audio):
        vision, audio = self.vision(vision.mean(1)), self.audio(audio.mean(1))
        logits = vision @ audio.T * self.scale + self.bias
        return vision, audio, PeAudioVideoModel._contrastive_loss(None, logits)


def linear(size, dim):
    return nn.Sequential(nn.LayerNorm(size), nn.Linear(size, dim, bias=False))


def mlp(size, dim):
    return nn.Sequential(nn.LayerNorm(size), nn.Linear(size, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim, bias=False))


HEADS = {
    "ours, InfoNCE": Ours,
    "CLIP": lambda *sizes: Pooled(*sizes, linear, 1 / 0.07),
    "SigLIP": lambda *sizes: Pooled(*sizes, linear, 10, bias=-10),
    "ImageBind": lambda *sizes: Pooled(*sizes, mlp, 20, learned=False),
    "PE-AV, shipped": PerceptionEncoderShipped,
    "PE-AV, corrected": lambda *sizes: Pooled(*sizes, PeAudioVideoContrastiveHead, 10, bias=-10),
}


def compare_heads(args, model, data):
    model.to(DEVICE)
    train_towers(args, model, data["train"])
    features = {name: tower_features(model, clips) for name, clips in data.items()}
    print(f"{'head':<18} {'M':>5} {'s':>5}  new scenes: R@1 v>a, a>v         new combinations: R@1 v>a, a>v")
    for name, make in HEADS.items():
        runs = [train_head(args, make, features, seed) for seed in range(args.seeds)]
        columns = list(zip(*(run["recalls"] for run in runs)))
        spread = [f"{statistics.mean(c):.1%} ± {statistics.stdev(c) if len(c) > 1 else 0:.1%}" for c in columns]
        print(
            f"{name:<18} {runs[0]['parameters'] / 1e6:>5.1f} {runs[0]['seconds']:>5.0f}  {'  '.join(spread)}",
            flush=True,
        )


def train_towers(args, model, clips):
    """Each tower alone learns to name the factors of a scene, so that neither knows of the other or of any head."""
    for name, tower in model.towers.items():
        readers = nn.ModuleList(nn.Linear(args.width, size) for size in FACTOR_SIZES)
        learner = nn.ModuleList([tower, readers]).to(DEVICE).train()
        optimizer = make_optimizer(learner, args.learning_rate)
        begun = time.perf_counter()
        for step in range(args.steps):
            set_learning_rate(optimizer, args.learning_rate * min(1, (step + 1) / 50), step / args.steps)
            rows = torch.randint(len(clips), (args.batch_size,), device=DEVICE)
            with torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda"):
                tokens = tower_tokens(model, name, clips.inputs(rows)).mean(1)
                losses = [
                    F.cross_entropy(reader(tokens).float(), clips.factors[rows, number])
                    for number, reader in enumerate(readers)
                ]
                loss = torch.stack(losses).mean()
            take_step(loss, learner, optimizer)
        chance = statistics.mean(math.log(size) for size in FACTOR_SIZES)
        print(
            f"{name} tower: factors {loss.item():.3f} nats (chance {chance:.3f}), {time.perf_counter() - begun:.0f} s"
        )
        tower.requires_grad_(False).eval()


def tower_tokens(model, name, inputs):
    key = {"vision": "pixel_values_videos", "audio": "input_features"}[name]
    return model.get_tower_tokens(**{key: inputs[key]})[name].features


@torch.no_grad()
def tower_features(model, clips):
    with torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda"):
        batches = list(clips.batches())
        return [
            torch.cat([tower_tokens(model, name, inputs).half() for inputs in batches]) for name in ("vision", "audio")
        ]


def train_head(args, make, features, seed):
    torch.manual_seed(seed)
    vision, audio = features["train"]
    head = make(vision.shape[-1], audio.shape[-1], args.width).to(DEVICE)
    head.start(vision[: args.batch_size].float(), audio[: args.batch_size].float())
    optimizer = make_optimizer(head, args.learning_rate)
    begun = time.perf_counter()
    for step in range(args.steps):
        set_learning_rate(optimizer, args.learning_rate * min(1, (step + 1) / 50), step / args.steps)
        rows = torch.randperm(len(vision), device=DEVICE)[: args.batch_size]
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda"):
            loss = head(vision[rows].float(), audio[rows].float())[2]
        take_step(loss, head, optimizer)
        if step % 50 == 0 and time.perf_counter() - begun > 120:
            raise RuntimeError(f"{step} of {args.steps} steps took 2 minutes: lower --steps for all heads.")
    recalls = []
    for name in ("new scenes", "new combinations"):
        with torch.no_grad():
            parts = [
                head(*(part.float() for part in pair))[:2] for pair in zip(*(x.split(100) for x in features[name]))
            ]
        similarity = torch.cat([v for v, _ in parts]) @ torch.cat([a for _, a in parts]).T
        recalls += [recall_at(similarity, (1,))[1], recall_at(similarity.T, (1,))[1]]
    parameters = sum(parameter.numel() for parameter in head.parameters())
    return {"recalls": recalls, "parameters": parameters, "seconds": time.perf_counter() - begun}


if __name__ == "__main__":
    main()
