"""Towers: the vision, audio or text encoder in a transformers model, however it is given."""

import inspect
import os
import sys

import torch
import transformers
from transformers import MODEL_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel

# what the main input of a tower may be called
TOWER_INPUTS = {
    "vision": ("pixel_values", "pixel_values_videos"),
    "audio": ("input_values", "input_features"),
    "text": ("input_ids",),
}
# what models of several modalities call their towers
_TOWER_NAMES = {
    "vision": ("vision_model", "vision_tower", "vision_encoder", "visual", "video_encoder"),
    "audio": ("audio_model", "audio_tower", "audio_encoder", "speech_encoder"),
    "text": ("text_model", "text_encoder"),
}


class SavesOwnNames:
    """Mixin in front of `PreTrainedModel`, for models that hold towers."""

    def save_pretrained(self, save_directory: str | os.PathLike, save_original_format: bool = False, **kwargs):
        """As in transformers, but by default parameters keep the names that they have here.

        transformers saves those of some towers, such as VideoMAE, under other names. Trainer resumes by name, and would
        leave them as they are.
        """
        return super().save_pretrained(save_directory, save_original_format=save_original_format, **kwargs)


def open_tower(given: PreTrainedModel | PreTrainedConfig | str | os.PathLike, modality: str) -> PreTrainedModel:
    """The tower in a model, in a folder or repository on the Hub, or of a config.

    Its config remembers its class, by which `make_tower` makes it again.
    """
    if isinstance(given, PreTrainedConfig):
        tower = make_tower(given, modality)
    elif isinstance(given, str | os.PathLike):
        tower = load_tower(str(given), modality)
    else:
        tower = find_tower(given, modality)
    tower.config.architectures = [type(tower).__name__]
    return tower


def find_tower(model: PreTrainedModel, modality: str) -> PreTrainedModel:
    """The encoder of one modality in a model, without task heads, decoder or other modalities.

    A pooling layer that can be left out is taken off: the aligner reads tokens, and parameters without gradients stop
    data parallel training.

    Args:
        model: `ViTModel`, `ViTForImageClassification`, `CLIPModel`, `WhisperForConditionalGeneration`, ...
        modality: `"vision"`, `"audio"` or `"text"`.

    Raises:
        ValueError: for what has no such encoder.
    """
    if not isinstance(model, PreTrainedModel):
        raise ValueError(
            f"The {modality} tower must be a transformers model, its name or its config, got {type(model).__name__}."
        )
    tower = model.base_model
    parts = [getattr(tower, name, None) for name in _TOWER_NAMES[modality]]
    inner = next((part for part in parts if isinstance(part, PreTrainedModel)), None)
    if inner is not None:
        return find_tower(inner, modality)
    if hasattr(tower, "encoder") and hasattr(tower, "decoder") and isinstance(tower.encoder, PreTrainedModel):
        tower = tower.encoder
    if tower.main_input_name not in TOWER_INPUTS[modality]:
        raise ValueError(
            f"{type(model).__name__} is no {modality} tower: it reads `{tower.main_input_name}`, expected "
            f"{' or '.join(f'`{name}`' for name in TOWER_INPUTS[modality])}."
        )
    if "add_pooling_layer" in inspect.signature(type(tower).__init__).parameters:
        tower.pooler = None
    return tower


def make_tower(config: PreTrainedConfig, modality: str) -> PreTrainedModel:
    """The tower of a config, with new weights."""
    return find_tower(_model_class(config)._from_config(config), modality)


def load_tower(name_or_path: str, modality: str) -> PreTrainedModel:
    """The tower in a saved model, a folder or a repository on the Hub."""
    config = AutoConfig.from_pretrained(name_or_path)
    return find_tower(_model_class(config).from_pretrained(name_or_path, dtype=torch.float32), modality)


def _model_class(config):
    """The class by whose name the config was saved, otherwise the one of its type."""
    # a config of its own that no Auto class knows: ClapAudioConfig has ClapAudioModel
    type_name = type(config).__name__.removesuffix("Config") + "Model"
    of_type = MODEL_MAPPING[type(config)] if type(config) in MODEL_MAPPING else getattr(transformers, type_name, None)
    if of_type is None:
        raise ValueError(f"transformers has no model of {type(config).__name__}.")
    module = sys.modules[of_type.__module__]  # where parts are, too: WhisperEncoder is not among transformers' names
    named = (getattr(module, name, None) for name in config.architectures or ())
    return next((found for found in named if found is not None), of_type)
