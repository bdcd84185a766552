"""The report as a page that needs no other file: pictures, sound and video are inside it."""

import base64
import html
import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..configuration.modalities import AUDIO, IMAGE, MODALITIES, TEXT, VIDEO
from .figures import Figures, describe_gradients, describe_verdict, gain_unit


@dataclass
class Example:
    """One held-out clip, and what the model makes of each of its modalities.

    Text is a string, audio log-mel (M, F), image (3, H, W), video (3, T, H, W).
    """

    path: str
    true: dict[str, Any]
    made: dict[str, dict[str, Any]]  # source -> target -> prediction


_STYLE = """
:root { --ink: #1d2433; --soft: #5c6780; --line: #dde2ec; --good: #1a7f4b; --bad: #b3471b; --accent: #3b5bdb; }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: #f5f7fb; margin: 0; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 30px; margin: 0 0 4px; } h2 { font-size: 21px; margin: 0 0 6px; }
section { background: #fff; border: 1px solid var(--line); border-radius: 12px; padding: 22px 26px; margin-top: 22px; }
p { margin: 6px 0 12px; max-width: 78ch; } .soft { color: var(--soft); font-size: 14px; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin-top: 18px; }
.tile { background: #fff; border: 1px solid var(--line); border-radius: 12px; padding: 14px 18px; flex: 1 1 150px; }
.tile b { display: block; font-size: 24px; } .tile span { color: var(--soft); font-size: 13px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { text-align: left; color: var(--soft); font-weight: 600; font-size: 13px; }
th, td { padding: 6px 10px; border-bottom: 1px solid var(--line); vertical-align: middle; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.good { color: var(--good); } .bad { color: var(--bad); font-weight: 600; }
.bar { background: #e8ecf5; border-radius: 4px; height: 10px; min-width: 120px; }
.bar i { display: block; height: 10px; border-radius: 4px; background: var(--accent); }
img { image-rendering: pixelated; border-radius: 4px; } img.plot { width: 100%; image-rendering: auto; }
td img { display: block; height: 64px; } td img.mel { width: 150px; } td.given { background: #f0f4ff; }
.scroll { overflow-x: auto; } audio { height: 30px; width: 170px; display: block; margin-top: 4px; }
video { height: 120px; border-radius: 6px; display: block; } .caption { font: 13px/1.4 ui-monospace, monospace; min-width: 150px; }
.pair { display: flex; gap: 28px; flex-wrap: wrap; margin: 8px 0 18px; } figure { margin: 0; } figcaption { font-size: 13px; color: var(--soft); }
"""


def render_page(figures: Figures, examples: Sequence[Example], processor, title: str = "OmniLatent report") -> str:
    """The whole page.

    Args:
        figures: What was measured.
        examples: Clips to show.
        processor: `OmniLatentProcessor` of the model; turns what the model made into pictures and sound.
        title: Of the page.
    """
    sections = [
        _verdict(figures),
        _pairs_table(figures),
        _retrieval_table(figures),
        *(_example(number, example, processor) for number, example in enumerate(examples, start=1)),
        _curves(figures.log),
    ]
    body = "\n".join(f"<section>{section}</section>" for section in sections if section)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><main><h1>{html.escape(title)}</h1>"
        '<p class="soft">One model reads text, sound, pictures and video, and writes each of them. Everything below was '
        "measured on videos that it did not see in training, after it was loaded from its saved files.</p>"
        f"{_tiles(figures)}{body}</main></body></html>"
    )


def _tiles(figures):
    tiles = [
        (f"{len(figures.beaten())} of {len(figures.pairs)}", "pairs beat their shuffled control"),
        (str(figures.clips), "held-out clips"),
        (f"{figures.parameters / 1e6:.2f} M", "parameters"),
    ]
    train = next((line for line in reversed(figures.log) if "train_runtime" in line), None)
    if train is not None:
        tiles += [(f"{train['step']}", "training steps"), (f"{train['train_runtime'] / 60:.1f} min", "training time")]
    return (
        '<div class="tiles">'
        + "".join(f'<div class="tile"><b>{b}</b><span>{s}</span></div>' for b, s in tiles)
        + "</div>"
    )


def _verdict(figures):
    lines = [describe_verdict(figures)] + ([describe_gradients(figures.gradients)] if figures.gradients else [])
    kind = "bad" if figures.not_beaten() else "good"
    return "<h2>In short</h2>" + "".join(
        f'<p class="{kind if not i else ""}">{html.escape(x)}</p>' for i, x in enumerate(lines)
    )


def _pairs_table(figures):
    # bars are full at the best pair of the same unit
    best = {}
    for name, result in figures.pairs.items():
        best[gain_unit(name)] = max(best.get(gain_unit(name), 1e-9), result["gain"])
    rows = []
    for name, result in figures.pairs.items():
        low, high = result["interval"]
        share = 100 * max(0.0, result["gain"]) / best[gain_unit(name)]
        verdict = '<span class="good">yes</span>' if low > 0 else '<span class="bad">no</span>'
        rows.append(
            f"<tr><td>{name.replace('->', ' → ')}</td>"
            f'<td class="number">{result["loss"]:.4f}</td><td class="number">{result["shuffled_loss"]:.4f}</td>'
            f'<td class="number">{result["gain"]:.3f} {gain_unit(name)}</td>'
            f'<td class="number">{low:.3f} … {high:.3f}</td>'
            f'<td><div class="bar"><i style="width:{share:.0f}%"></i></div></td><td>{verdict}</td></tr>'
        )
    return (
        "<h2>Does the model use what it is given?</h2>"
        "<p>Each pair is measured twice: with the right source, and with that of another clip (the control). The gain "
        "is what the right source is worth: bits per token where text is written, otherwise decibels of mean squared "
        "error. A pair beats its control when the whole 95 % interval (bootstrap over clips) lies above zero.</p>"
        '<div class="scroll"><table><tr><th>source → target</th><th class="number">loss</th><th class="number">control</th>'
        '<th class="number">gain</th><th class="number">95 % interval</th><th></th><th>beats it?</th></tr>'
        f"{''.join(rows)}</table></div>"
    )


def _retrieval_table(figures):
    names = [name for name in MODALITIES if any(name in key.split("_to_") for key in figures.retrieval)]
    head = "".join(f'<th class="number">{name}</th>' for name in names)
    rows = []
    for first in names:
        cells = (figures.retrieval.get(f"{first}_to_{second}") for second in names)
        cells = "".join('<td class="number">' + ("" if c is None else f"{100 * c:.1f} %") + "</td>" for c in cells)
        rows.append(f"<tr><td>{first}</td>{cells}</tr>")
    return (
        "<h2>Does it know what belongs together?</h2>"
        f"<p>Retrieval R@1: given the row's side of a clip, how often is the nearest of all {figures.clips} clips in the "
        f"column's modality its own? Guessing finds {100 * figures.chance:.1f} %.</p>"
        f"<table><tr><th>given</th>{head}</tr>{''.join(rows)}</table>"
    )


def _example(number, example, processor):
    names = [name for name in MODALITIES if name in example.true]
    head = "".join(f"<th>{name}</th>" for name in names)
    truth = "".join(f'<td class="given">{_show(name, example.true[name], processor)}</td>' for name in names)
    rows = []
    for source in names:
        cells = "".join(f"<td>{_show(target, example.made[source][target], processor)}</td>" for target in names)
        rows.append(f"<tr><th>from {source}</th>{cells}</tr>")
    return (
        f"<h2>Held-out clip {number}</h2>"
        f'<p class="soft">{html.escape(Path(example.path).name)}. The first row is the clip itself; each row below shows '
        "what the model makes when it is given only that one side of it. Video is shown as a strip of frames.</p>"
        f"{_films(example, processor)}"
        f'<div class="scroll"><table><tr><th></th>{head}</tr><tr><th>the clip</th>{truth}</tr>{"".join(rows)}</table></div>'
    )


def _films(example, processor):
    if VIDEO not in example.true:
        return ""
    films = [("the clip", example.true[VIDEO], example.true.get(AUDIO))]
    for source in (TEXT, AUDIO):
        made = example.made.get(source)
        if made:
            films.append((f"made from its {'caption' if source == TEXT else 'sound'}", made[VIDEO], made.get(AUDIO)))
    tags = (
        f"<figure>{video_tag(video, sound, processor)}<figcaption>{name}</figcaption></figure>"
        for name, video, sound in films
    )
    return f'<div class="pair">{"".join(tags)}</div>'


def _show(name, value, processor):
    if name == TEXT:
        return f'<div class="caption">{html.escape(value) or "&nbsp;"}</div>'
    if name == AUDIO:
        return image_tag(mel_picture(value), "spectrogram", "mel") + sound_tag(value, processor)
    if name == IMAGE:
        return image_tag(np.asarray(processor.decode_image(value)), "picture")
    return image_tag(film_strip(processor.decode_video(value.transpose(0, 1))), "frames of the video")


def mel_picture(features) -> np.ndarray:
    """(M, F, 3) uint8 of log-mel features (M, F) in [-1, 1], low notes below."""
    from matplotlib import colormaps

    return (colormaps["magma"]((np.asarray(features)[::-1] + 1) / 2)[..., :3] * 255).astype(np.uint8)


def film_strip(frames: np.ndarray, count: int = 4) -> np.ndarray:
    """Some evenly spread frames of (T, H, W, 3) side by side."""
    chosen = frames[np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)]
    gap = np.full((frames.shape[1], 1, 3), 255, np.uint8)
    return np.concatenate([part for frame in chosen for part in (frame, gap)][:-1], axis=1)


def image_tag(pixels: np.ndarray, description: str, css_class: str = "") -> str:
    """(H, W, 3) uint8 as an <img>."""
    return f'<img class="{css_class}" alt="{description}" src="{_png(pixels)}">'


def sound_tag(features, processor) -> str:
    """Log-mel features (M, F) as an <audio> with controls."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "sound.wav")
        processor.save_audio(path, processor.decode_audio(features))
        return f'<audio controls preload="none" src="{_data_uri("audio/wav", path.read_bytes())}"></audio>'


def video_tag(values, features, processor) -> str:
    """Video (3, T, H, W), with its sound (M, F) where there is some, as a <video> with controls."""
    frames = processor.decode_video(values.transpose(0, 1))
    waveform = None if features is None else processor.decode_audio(features)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "video.mp4")
        processor.save_video(path, frames, waveform=waveform)
        source = _data_uri("video/mp4", path.read_bytes())
    poster = _png(frames[len(frames) // 2])
    return f'<video controls loop preload="none" poster="{poster}" src="{source}"></video>'


def _png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return _data_uri("image/png", buffer.getvalue())


def _data_uri(kind, data):
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _curves(log):
    """Loss of each pair over the steps, a panel for each target."""
    lines = [line for line in log if any(name.startswith("loss_") for name in line)]
    if not lines:
        return ""
    return (
        "<h2>Training</h2><p>Loss of each pair as training went on (mean over the steps between two lines of the log). "
        "Dashed lines are the starts of the curriculum's phases.</p>" + _plot_losses(lines)
    )


def _plot_losses(lines):
    from matplotlib.figure import Figure

    targets = [*MODALITIES, "future"]
    names = sorted({name for line in lines for name in line if "_to_" in name and name.startswith("loss_")})
    panels = {t: [n for n in names if n.endswith(f"_to_{t}")] for t in targets}
    panels = {t: names for t, names in panels.items() if names}
    starts = [b["step"] for a, b in zip(lines, lines[1:]) if a.get("phase") != b.get("phase")]
    figure = Figure(figsize=(3.3 * len(panels), 2.9), dpi=110, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (target, names) in zip(axes, panels.items()):
        for name in names:
            points = [(line["step"], line[name]) for line in lines if name in line]
            axis.plot(*zip(*points), label=name.removeprefix("loss_").replace("_to_", "→"), linewidth=1.3)
        for start in starts:
            axis.axvline(start, color="#999", linestyle="--", linewidth=0.7)
        axis.set(title=f"to {target}", xlabel="step", yscale="log")
        axis.legend(fontsize=7, frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return f'<img class="plot" alt="losses" src="{_data_uri("image/png", buffer.getvalue())}">'
