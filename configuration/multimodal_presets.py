"""Configs of the multimodal models as JSON files."""

import json
import os
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from .configuration_multimodal import MultiModalConfig
from .known_words import class_of_part

FOLDER = Path(__file__).parent / "presets"


def list_presets() -> list[str]:
    """Names of our presets.

    Example:

    ```python
    >>> from omnilatent.configuration.multimodal_presets import list_presets

    >>> "base_text_image_model" in list_presets()
    True
    ```
    """
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load_preset(preset: str | os.PathLike, **settings) -> MultiModalConfig:
    """The config that a preset describes.

    Args:
        preset: path of a JSON file, or the name of a preset of ours with or without ".json". A path to no file, such as
            the specification's "configs/base_text_image_model.json", means our preset of that name.
        settings: put in the file's place.

    Raises:
        FileNotFoundError: for a preset that does not exist.
        ValueError: for broken JSON, a word that is no setting, or a value that cannot be; the message names file, word
            and value.
    """
    path = find_preset(preset)
    try:
        words = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(words, dict):
        raise ValueError(f"{path} holds {type(words).__name__}, expected an object of settings.")
    _refuse_unknown(path, words, MultiModalConfig)
    try:
        return MultiModalConfig(**{name: value for name, value in words.items() if name != "model_type"} | settings)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise ValueError(f"{path}: {_find_part(words, MultiModalConfig)}{error}") from error


def find_preset(preset: str | os.PathLike) -> Path:
    """The file that `load_preset` reads.

    Raises:
        FileNotFoundError: listing the presets that there are.
    """
    path = Path(preset)
    if path.is_file():
        return path
    ours = FOLDER / f"{path.name.removesuffix('.json')}.json"
    if ours.is_file():
        return ours
    raise FileNotFoundError(
        f"There is no file {str(preset)!r} and no preset of that name: {', '.join(list_presets())}."
    )


def _refuse_unknown(path: Path, words: dict, config_class: type[PreTrainedConfig], place: str = ""):
    """Raise for a word in `words`, or in the objects in it, that its config class does not know."""
    for word, value in words.items():
        if not config_class.knows(word):
            raise ValueError(
                f"{path}: {place + word!r} with the value {value!r} is no setting of {config_class.__name__}."
                f"{config_class.hint(word)}"
            )
        part_class = class_of_part(config_class.sub_configs_defaults.get(word), value)
        if part_class is not None:
            _refuse_unknown(path, value, part_class, f"{place}{word}.")


def _find_part(words: dict, config_class: type[PreTrainedConfig]) -> str:
    """The innermost part that cannot be made by itself, as in "text_config.attention: ", or nothing."""
    for word, value in words.items():
        part_class = class_of_part(config_class.sub_configs_defaults.get(word), value)
        if part_class is None:
            continue
        try:
            part_class(**{name: one for name, one in value.items() if name != "model_type"})
        except (ValueError, TypeError, StrictDataclassError):
            return f"{word}.{inner}" if (inner := _find_part(value, part_class)) else f"{word}: "
    return ""
