"""What `forward` refuses. Shapes are always compared; values are looked at on the CPU, or where a look is due anyway."""

import torch
from transformers.utils import is_torchdynamo_compiling, logging

from ...configuration import layout
from ...configuration.configuration_omnilatent import OmniLatentConfig
from ...configuration.modalities import SPECIAL_TOKENS, TENSOR_NAMES, TEXT
from ..layers.value_checks import check_values

logger = logging.get_logger(__name__)


def check_sequence(config: OmniLatentConfig, input_ids, attention_mask, token_type_ids, labels):
    """Raise a ValueError unless the tensors beside `input_ids` (B, T) fit it, and its ids exist."""
    batch, length = input_ids.shape
    for name, tensor in (("attention_mask", attention_mask), ("token_type_ids", token_type_ids)):
        # with a cache these cover the cached tokens as well
        if tensor is not None and tensor.ndim == 2 and (tensor.shape[0] != batch or tensor.shape[1] < length):
            raise ValueError(f"`{name}` must cover `input_ids` {tuple(input_ids.shape)}, got {tuple(tensor.shape)}.")
    if labels is not None and labels.shape != input_ids.shape:
        raise ValueError(
            f"`labels` must have the shape {tuple(input_ids.shape)} of the sequence, got {tuple(labels.shape)}."
        )
    if input_ids.device.type == "cpu" and not is_torchdynamo_compiling():
        special = input_ids - config.special_token_offset
        exists = ((input_ids >= 0) & (input_ids < config.vocab_size)) | (
            (special >= 0) & (special < len(SPECIAL_TOKENS))
        )
        if not exists.all():
            raise ValueError(
                f"`input_ids` holds {input_ids[~exists][0].item()}: there are text ids 0..{config.vocab_size - 1} and "
                f"special tokens {config.special_token_offset}..{config.special_token_offset + len(SPECIAL_TOKENS) - 1}."
            )


def check_tensors(config: OmniLatentConfig, batch: int, tensors: dict):
    """Raise a ValueError unless the modalities' tensors have shapes that the config can take, a row for each sequence."""
    for name, names in TENSOR_NAMES.items():
        for keyword in (names.values, names.labels):
            values = tensors[keyword]
            if values is None:
                continue
            if values.ndim != (4 if name == "image" else 3 if name == "audio" else 5):
                raise ValueError(
                    f"`{keyword}` has the shape {tuple(values.shape)}: too few or too many axes for {name}."
                )
            layout.check_values(config, name, layout.as_keyword(name, values))
            if len(values) != batch:
                raise ValueError(f"`{keyword}` has {len(values)} rows, the sequence has {batch}.")


def check_targets(target_sizes: dict, labels, tensors: dict):
    """Raise a ValueError for labels of a target that the sequence does not have: they would train nothing."""
    for name, names in TENSOR_NAMES.items():
        if tensors[names.labels] is not None and name not in target_sizes:
            raise ValueError(
                f"`{names.labels}` is given, but the sequence has no {name} target: {list(target_sizes)}."
            )
    if labels is not None and target_sizes and TEXT not in target_sizes:
        raise ValueError(f"`labels` is given, but the sequence has no text target: {list(target_sizes)}.")


def warn_of_unfilled(config: OmniLatentConfig, input_ids: torch.Tensor, sources: dict):
    """Say when placeholders stand for a modality whose tensor is missing; transformers' models accept that."""
    if is_torchdynamo_compiling():
        return
    for name, names in TENSOR_NAMES.items():
        if name not in sources and (input_ids == getattr(config, f"{name}_token_id")).any():
            logger.warning_once(
                f"The sequence has placeholders of {name}, but no `{names.values}`: the model sees none."
            )


def check_text_length(config: OmniLatentConfig, index: torch.Tensor):
    """Raise a ValueError when a text goes beyond the config's maximum; `index` counts its tokens within a segment."""
    check_values(
        index < config.max_text_length + 2,  # the marker and BOS are counted, and are no text
        f"The model takes texts of at most {config.max_text_length} tokens.",
        lambda: f"A text of {int(index.max()) + 1} tokens, but the model takes at most {config.max_text_length}.",
    )
