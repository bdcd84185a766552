"""The vocabulary of the library: modalities, and the name of each tensor that travels in a batch.

Shapes: B batch, T text tokens, F mel frames, M mel bins, N video frames, H and W pixels.
"""

from typing import NamedTuple

TEXT, AUDIO, IMAGE, VIDEO = "text", "audio", "image", "video"
MODALITIES = (TEXT, AUDIO, IMAGE, VIDEO)


class TensorNames(NamedTuple):
    """Keyword names under which one modality enters `OmniLatentModel.forward`."""

    values: str  # the source tensor
    mask: str  # True where the source is real and not padding
    labels: str  # the target tensor
    labels_mask: str  # True where the target is real and not padding


# Text has no entry: as source and as target it is written into `input_ids`, its labels into `labels`.
TENSOR_NAMES = {
    AUDIO: TensorNames("input_features", "input_features_mask", "audio_labels", "audio_labels_mask"),
    IMAGE: TensorNames("pixel_values", "pixel_mask", "image_labels", "image_labels_mask"),
    VIDEO: TensorNames("pixel_values_videos", "pixel_mask_videos", "video_labels", "video_labels_mask"),
}

# Byte b of text is token `FIRST_BYTE_ID + b`, after padding, BOS and EOS
FIRST_BYTE_ID = 3

# `token_type_ids` of a source; the k-th target has k.
SOURCE_SEGMENT = 0
IGNORE_INDEX = -100

# Ids of these tokens follow the text vocabulary in this order: placeholders of sources, markers that open a target,
# slots of a target that is not text. The text head has no row for them, so they are never emitted.
SPECIAL_TOKENS = {
    "image_token": "<|image|>",
    "audio_token": "<|audio|>",
    "video_token": "<|video|>",
    "text_target_token": "<|to_text|>",
    "audio_target_token": "<|to_audio|>",
    "image_target_token": "<|to_image|>",
    "video_target_token": "<|to_video|>",
    "audio_slot_token": "<|audio_slot|>",
    "image_slot_token": "<|image_slot|>",
    "video_slot_token": "<|video_slot|>",
}


def check_modality(name: str, role: str = "modality") -> str:
    """Return `name`, or raise a ValueError that lists the four names."""
    if name not in MODALITIES:
        raise ValueError(f"Unknown {role} {name!r}: expected one of {', '.join(MODALITIES)}.")
    return name
