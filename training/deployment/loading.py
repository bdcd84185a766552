"""Saved models with what prepares their inputs, by the folder's own word for their class."""

from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, AutoTokenizer, PreTrainedModel

import omnilatent


def load_model(name_or_path: str | Path) -> PreTrainedModel:
    """The model in a folder or a repository, of the class it was saved as, in float32 and evaluation mode.

    Raises:
        ValueError: for a folder whose config names no class that is known.
    """
    config = AutoConfig.from_pretrained(name_or_path)
    for name in config.architectures or ():
        kind = getattr(omnilatent, name, None) if name in omnilatent.__all__ else getattr(transformers, name, None)
        if kind is not None:
            return kind.from_pretrained(name_or_path, dtype=torch.float32).eval()
    raise ValueError(
        f"The config in {name_or_path} names the class {', '.join(config.architectures or ()) or 'none'}, expected one "
        "of omnilatent or transformers: save the model by `save_pretrained`."
    )


def load_processor(name_or_path: str | Path):
    """What prepares the model's inputs: a processor, or else its image processor or tokenizer; `None`: there is none."""
    for kind in (AutoProcessor, AutoImageProcessor, AutoTokenizer):
        try:
            return kind.from_pretrained(name_or_path)
        except (OSError, ValueError, KeyError):  # each of which says that the folder has no such thing
            continue
    return None
