"""Pictures of what an image classifier looks at: `omnilatent visualize`."""

import os
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, BaseImageProcessor, PreTrainedModel

from ..configuration.configuration_relpos_vit import as_pair
from ..modeling_omni.layers.relative_bias import RelativePositionTable
from .attention_pictures import visualize_attention_weights, visualize_bias_table, visualize_shares
from .data.sample_pictures import BadSampleError, open_picture
from .rollout import attention_rollout, patch_shares
from .saved_models import check_image_classifier


@torch.no_grad()
def visualize_model(
    model: str | os.PathLike, image: str | os.PathLike, out: str | os.PathLike
) -> tuple[list[tuple[str, float]], list[Path]]:
    """
    Classify a picture, and draw attention rollout, the attention weights of each layer, and the tables of relative
    position biases where the model has some.

    Args:
        model: Folder or repository of a vision transformer of transformers with an image processor.
        image: File.
        out: Folder of the pictures.

    Returns:
        The five most likely labels with their probabilities, none of a model whose head was never trained, and the
        files that were written.

    Raises:
        FileNotFoundError: for a file or a model that is not there, or a model without an image processor.
        ValueError: for a file that is no picture, or a model that does not take RGB images, or whose attention is not
            one of patches among each other.
        ImportError: without matplotlib, which `omnilatent[viz]` brings.
    """
    if not Path(image).is_file():
        raise FileNotFoundError(f"There is no file {str(image)!r}.")
    try:
        picture = open_picture(str(image))
    except BadSampleError as error:
        raise ValueError(f"{image} cannot be read: {error}") from None
    check_image_classifier(model)
    processor = open_image_processor(model)
    # only this kernel writes the weights out
    model, loaded = AutoModelForImageClassification.from_pretrained(
        model, attn_implementation="eager", output_loading_info=True
    )
    model.eval()
    if getattr(model.config, "num_frames", None) is not None or getattr(model.config, "num_channels", 3) != 3:
        raise ValueError(f"omnilatent draws models of RGB images only, and this {type(model).__name__} takes others.")
    pixels = processor(picture, return_tensors="pt")["pixel_values"]
    output = model(pixel_values=pixels, output_attentions=True)
    if not output.attentions:
        raise ValueError(f"{type(model).__name__} gives no attention weights.")
    grid_size = tuple(
        size // patch for size, patch in zip(pixels.shape[-2:], as_pair("patch_size", model.config.patch_size))
    )
    shares = patch_shares(attention_rollout(output.attentions), grid_size, _pooling(model))[0]
    labels = [] if loaded["missing_keys"] else likely_labels(model, output.logits[0])  # a head that was never trained

    folder, written = Path(out), []

    def path(name):
        written.append(folder / f"{name}.png")
        return written[-1]

    title = f"{labels[0][0]} {labels[0][1]:.1%}: attention rollout" if labels else "attention rollout"
    # the model may have seen a part of it only: what it saw is what the patches cover
    seen = picture if not getattr(processor, "do_center_crop", False) else _as_seen(pixels)
    visualize_shares(shares, seen, path("rollout"), title)
    for number, weights in enumerate(output.attentions):
        visualize_attention_weights(weights, path(f"attention_layer_{number:02}"), f"Attention of layer {number}")
    tables = [module for module in model.modules() if isinstance(module, RelativePositionTable)]
    for number, table in enumerate(tables):
        name = "bias_table" if len(tables) == 1 else f"bias_table_layer_{number:02}"
        title = name.replace("_", " ")
        visualize_bias_table(table.relative_position_bias_table, path(name), title, table.query_size)
    return labels, written


def open_image_processor(model: str | os.PathLike) -> BaseImageProcessor:
    """
    Raises:
        FileNotFoundError: for a model that was saved without one.
    """
    try:
        return AutoImageProcessor.from_pretrained(model)
    except OSError as error:
        raise FileNotFoundError(
            f"{model} has no image processor, which makes an image what the model reads: save one there, as in "
            f"ViTImageProcessor(size={{'height': 224, 'width': 224}}).save_pretrained({str(model)!r})."
        ) from error


def likely_labels(model: PreTrainedModel, logits: torch.Tensor) -> list[tuple[str, float]]:
    """At most five labels with their probabilities, the most likely one first; logits (labels,)."""
    probabilities, numbers = logits.softmax(-1).topk(min(5, len(logits)))
    names = [model.config.id2label[number] for number in numbers.tolist()]
    return list(zip(names, probabilities.tolist()))


def _pooling(model: PreTrainedModel) -> str | None:
    """How the model makes one embedding of its tokens, where its config tells."""
    pooling = getattr(model.config, "pooling", None)
    if pooling is None and getattr(model.config, "use_mean_pooling", False):  # BEiT
        return "mean"
    return pooling


def _as_seen(pixels):
    """The picture that a model got, in colours from its least to its greatest value."""
    values = pixels[0].permute(1, 2, 0)
    values = (values - values.min()) / (values.max() - values.min()).clamp(min=1e-6)
    return Image.fromarray((values * 255).byte().numpy())


__all__ = ["visualize_model"]
