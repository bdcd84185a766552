"""What a trained model does on held-out videos, measured and shown on a page."""

import json
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ..configuration.configuration_omnilatent import OmniLatentConfig
from ..configuration.layout import lay_out
from ..configuration.modalities import AUDIO, IMAGE, TEXT, VIDEO
from ..modeling_omni.omnilatent.modeling_omnilatent import OmniLatentModel
from ..processing.processing_omnilatent import OmniLatentProcessor
from .batches import MultimodalBatch, read_batch
from .data import VideoCollection, VideoLoader
from .figures import Figures, measure
from .pairs import ALL_PAIRS, PAST_TO_FUTURE
from .report_page import Example, render_page
from .saved_models import check_kind
from .streams import find_views

# Files beside a model's weights that the report shows where it finds them.
LOG_FILE = "trainer_state.json"
GRADIENTS_FILE = "gradients.json"
_CAPTION_TOKENS = 96


def write_report(
    model: str | Path,
    video_dir: str | Path,
    out: str | Path,
    clip_duration: float = 2.0,
    batch_size: int = 32,
    max_clips: int = 512,
    num_examples: int = 3,
) -> Figures:
    """
    Judge a saved model on a folder of videos; write a page, and its figures as JSON beside it.

    Args:
        model: Folder or repository of a model with its processor.
        video_dir: Videos that the model was not trained on.
        out: The page, .html.
        clip_duration: Seconds of a clip; clips do not overlap.
        batch_size: Clips evaluated together.
        max_clips: Clips evaluated.
        num_examples: Clips shown with all that the model makes of them.

    Raises:
        ValueError: for a folder that gives no clip.
    """
    out = Path(out)
    check_kind(model, [OmniLatentConfig], "OmniLatentModel")
    processor = OmniLatentProcessor.from_pretrained(model)
    net = OmniLatentModel.from_pretrained(model).eval().to("cuda" if torch.cuda.is_available() else "cpu")
    videos = VideoCollection.from_folder(
        video_dir, net.config, clip_duration=clip_duration, clip_stride=clip_duration, seed=0
    )
    loader = VideoLoader(videos, batch_size, epochs=1, max_text_length=net.config.max_text_length)
    batches = list(islice(loader, -(-max_clips // batch_size)))
    views = find_views(loader, net.config)
    figures = measure(net, batches, [pair for pair in (*ALL_PAIRS, PAST_TO_FUTURE) if views >= set(pair)])
    figures.gradients = _read_json(Path(model) / GRADIENTS_FILE, {})
    figures.log = _read_json(Path(model) / LOG_FILE, {}).get("log_history", [])
    examples = make_examples(net, processor, batches[0], num_examples)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(render_page(figures, examples, processor), encoding="utf-8")
    out.with_suffix(".json").write_text(json.dumps(asdict(figures), indent=1), encoding="utf-8")
    return figures


@torch.no_grad()
def make_examples(model: OmniLatentModel, processor, raw: dict, count: int) -> list[Example]:
    """Everything out of everything for the first clips of a batch that have all modalities."""
    batch = read_batch(raw, model.config, model.device)
    names = list(batch.values)
    index = batch.rows_with(names).nonzero().squeeze(1)[:count]
    batch = batch.take(index)
    texts = processor.decode_text(batch.values[TEXT]) if TEXT in names else None
    examples = []
    for row in range(len(batch)):
        true = {name: values[row].float().cpu() for name, values in batch.values.items() if name != TEXT}
        if texts is not None:
            true[TEXT] = texts[row]
        examples.append(Example(raw["path"][index[row]], true, {name: {} for name in names}))
    for source in names:
        for target, predictions in _predict(model, processor, batch, source).items():
            for example, prediction in zip(examples, predictions):
                example.made[source][target] = prediction
    return examples


def _predict(model, processor, batch: MultimodalBatch, source: str) -> dict[str, Any]:
    """All targets of one source: captions token by token, the others in one pass."""
    targets = [name for name in (AUDIO, IMAGE, VIDEO) if name in batch.values]
    outputs = model(**batch.lay_out(model.config, source, targets))
    predictions: dict[str, Any] = {name: outputs[name].float().cpu() for name in targets}
    if TEXT in batch.values:
        values, mask = batch.view(source)
        prompt = lay_out(model.config, {source: values}, {TEXT: None}, {} if mask is None else {source: mask})
        ids = model.generate(**prompt, max_new_tokens=_CAPTION_TOKENS, do_sample=False)
        predictions[TEXT] = processor.decode_text(ids)
    return predictions


def _read_json(path: Path, default):
    return json.loads(path.read_text()) if path.is_file() else default
