"""Configs that refuse misspelt settings; transformers' own keep unknown words without a word."""

import difflib
from dataclasses import fields
from typing import Any

from transformers import CONFIG_MAPPING, GenerationConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.utils import logging

logger = logging.get_logger(__name__)

# words of the specifications' configs that are settings of training: TrainingArguments is their home
TRAINING_WORDS = {
    "batch_size": "per_device_train_batch_size",
    "learning_rate": "learning_rate",
    "lr": "learning_rate",
    "max_steps": "max_steps",
    "total_steps": "max_steps",
    "num_epochs": "num_train_epochs",
    "mixed_precision": "bf16",
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "weight_decay": "weight_decay",
    "warmup_steps": "warmup_steps",
    "max_grad_norm": "max_grad_norm",
    "grad_clip": "max_grad_norm",
    "log_interval": "logging_steps",
    "save_interval": "save_steps",
    "seed": "seed",
}

# words that transformers itself hands to a config beside its fields
TRANSFORMERS_WORDS = {
    "attn_implementation",
    "auto_map",
    "bos_token_id",  # Trainer writes the tokenizer's into a text config
    "eos_token_id",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "pad_token_id",
    "per_layer_config",
    "quantization_config",
    "tie_last_hidden_states",
    "torch_dtype",
}


class KnownWords:
    """Mixin in front of `PreTrainedConfig`: call `self.refuse_unknown_words(kwargs)` in `__post_init__`."""

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise ValueError(f"This is a config of model type {model_type!r}, not of {cls.model_type!r}.")
        # A saved config may come from a newer version: what it says beyond our words is kept, and said.
        unknown = {word: value for word, value in config_dict.items() if not cls.knows(word)}
        if unknown:
            logger.warning(f"This version of {cls.__name__} has no settings {sorted(unknown)}; they are kept unused.")
        known = {word: value for word, value in config_dict.items() if word not in unknown}
        for word, part in cls.sub_configs_defaults.items():  # and so may what it says in its parts
            of_part = class_of_part(part, known.get(word))
            if of_part is not None:
                known[word] = of_part.from_dict(known[word])
        result = super().from_dict(known, **kwargs)
        config = result[0] if isinstance(result, tuple) else result
        for word, value in unknown.items():
            setattr(config, word, value)
        return result

    @classmethod
    def knows(cls, word: str) -> bool:
        return (
            word.startswith("_")
            or word in {field.name for field in fields(cls)}
            or word in cls.attribute_map
            or word in TRANSFORMERS_WORDS
            or word in GenerationConfig._get_default_generation_params()
        )

    @classmethod
    def refuse_unknown_words(cls, words):
        """Raise a ValueError for a word that is no setting, with the one it may have been meant for."""
        for word in words:
            if cls.knows(word):
                continue
            if word in TRAINING_WORDS:
                raise ValueError(
                    f"{word!r} is a setting of training, not of the model: pass it as "
                    f"`TrainingArguments({TRAINING_WORDS[word]}=...)`."
                )
            raise ValueError(f"{cls.__name__} has no setting {word!r}.{cls.hint(word)}")

    @classmethod
    def hint(cls, word: str) -> str:
        """What an unknown word may have been meant for, as a sentence with a space before it, or nothing."""
        names = [field.name for field in fields(cls)]
        close = difflib.get_close_matches(word, [*names, *cls.attribute_map, *TRAINING_WORDS], n=1)
        if word.removesuffix("_config") in names:  # some parts are called so, and some not
            close = [word.removesuffix("_config")]
        return f" Did you mean {close[0]!r}?" if close else ""


def class_of_part(part: SubConfigSpec | None, words: Any) -> type[KnownWords] | None:
    """The class of ours that a part's words are for, if there is such a part and the words are ours."""
    if part is None or not isinstance(words, dict):
        return None
    of_part = part.config_class
    if not issubclass(of_part, PreTrainedConfig):  # AutoConfig: the words tell
        model_type = words.get("model_type", part.model_type)
        of_part = CONFIG_MAPPING[model_type] if model_type in CONFIG_MAPPING else None
    return of_part if of_part is not None and issubclass(of_part, KnownWords) else None
