"""Models from presets."""

import os

from transformers import PreTrainedModel

from ...configuration.configuration_multimodal import MultiModalConfig
from ...configuration.multimodal_presets import load_preset
from .modeling_multimodal import MultiModalTransformer
from .modeling_multimodal_classification import MultiModalForClassification, MultiModalForVisualQuestionAnswering
from .modeling_multimodal_generation import MultiModalForCaptioning, MultiModalForConditionalGeneration
from .modeling_multimodal_image_generation import MultiModalForImageGeneration
from .modeling_multimodal_retrieval import MultiModalForRetrieval

TASKS = {
    None: MultiModalTransformer,
    "retrieval": MultiModalForRetrieval,
    "vqa": MultiModalForVisualQuestionAnswering,
    "captioning": MultiModalForCaptioning,
    "classification": MultiModalForClassification,
    "generation": MultiModalForConditionalGeneration,
    "image_generation": MultiModalForImageGeneration,
}


def create_model(config: MultiModalConfig | str | os.PathLike, task: str | None = None, **settings) -> PreTrainedModel:
    """A new model of a preset or a config.

    Args:
        config: path of a JSON file, the name of a preset of ours with or without ".json", or a config.
        task: `"retrieval"`, `"vqa"`, `"captioning"`, `"classification"`, `"generation"` or `"image_generation"`.
            `None`: the encoders and their fusion.
        settings: put in the preset's place, such as `num_labels`.

    Raises:
        FileNotFoundError: for a preset that does not exist.
        ValueError: for an unknown task, a word or a value that cannot be, and settings beside a config.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent import create_model

    >>> model = create_model("tiny_text_image_model.json", task="classification", num_labels=3)
    >>> model(text_inputs=torch.randint(3, 259, (2, 7)), pixel_values=torch.randn(2, 3, 48, 48)).logits.shape
    torch.Size([2, 3])
    ```
    """
    if task not in TASKS:
        raise ValueError(f"There is no task {task!r}: choose one of {', '.join(map(repr, TASKS))}.")
    if not isinstance(config, MultiModalConfig):
        config = load_preset(config, **settings)
    elif settings:
        raise ValueError(f"The config says all: {sorted(settings)} may only go with the name of a preset.")
    return TASKS[task](config)


__all__ = ["TASKS", "create_model"]
