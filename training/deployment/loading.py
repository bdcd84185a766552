"""Saved models with what prepares their inputs, by the folder's own word for their class."""

from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, AutoTokenizer, PreTrainedModel
from transformers.utils import cached_file

import omnilatent

from ..saved_models import check_saved

PROCESSORS = {
    AutoProcessor: "processor_config.json",
    AutoImageProcessor: "preprocessor_config.json",
    AutoTokenizer: "tokenizer_config.json",
}


def load_model(name_or_path: str | Path) -> PreTrainedModel:
    """The model in a folder or a repository, of the class it was saved as, in float32 and evaluation mode.

    Raises:
        ValueError: for a folder whose config names no class that is known.
    """
    check_saved(name_or_path)
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
    check_saved(name_or_path)
    for kind, file in PROCESSORS.items():
        # without the file an Auto class may make one up from the config
        if cached_file(name_or_path, file, _raise_exceptions_for_missing_entries=False) is not None:
            return kind.from_pretrained(name_or_path)
    return None
