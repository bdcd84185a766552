"""The inputs of the multimodal models: what is given of text and of the second modality, under which names.

Shapes: B batch, T tokens, N patches or given features, F their width, M mel bands, L frames of a spectrogram.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...configuration.configuration_multimodal import MultiModalConfig
from ..known_keywords import refuse_unknown_keywords

# by modality: what its values may be called, and its mask. Names of one group are the same input.
VALUES = {
    "text": (("input_ids", "text_inputs"),),
    "image": (("pixel_values",), ("image_features",)),
    "audio": (("input_features", "input_values"), ("audio_features",)),
    "video": (("pixel_values_videos",), ("video_features",)),
}
MASKS = {
    "text": ("attention_mask", "text_attention_mask"),
    "image": ("image_attention_mask",),
    "audio": ("audio_attention_mask",),
    "video": ("video_attention_mask",),
}
STREAM_ARGUMENTS = tuple(
    name for modality, groups in VALUES.items() for name in (*sum(groups, ()), *MASKS[modality])
)  # in the order in which `forward` takes them

ARGUMENTS_DOC = """
        Args:
            input_ids, attention_mask: (B, T) ids of text, and 1 where a token is real. Also called `text_inputs` and
                `text_attention_mask`.
            pixel_values: (B, C, H, W) pictures; or image_features: (B, N, F) features of them.
            image_attention_mask: (B, N), 1 where a patch or a feature is real.
            input_features: (B, M, L) spectrograms, or what an audio tower reads (`input_values` likewise); or
                audio_features: (B, N, F).
            audio_attention_mask: (B, L), or (B, N) of features.
            pixel_values_videos: (B, frames, C, H, W); or video_features: (B, N, F).
            video_attention_mask: (B, frames), or (B, N) of features.
"""


@dataclass
class Stream:
    """
    Args:
        name: the canonical name of the values, such as `"input_ids"`.
        values: as given.
        attention_mask: as given; `None`: all is real.
    """

    name: str
    values: torch.Tensor
    attention_mask: torch.Tensor | None = None

    @property
    def are_features(self) -> bool:
        return self.name.endswith("_features") and self.name != "input_features"


def take_streams(config: MultiModalConfig, inputs: dict[str, torch.Tensor]) -> dict[str, Stream]:
    """The streams by modality, text first, of arguments by name.

    Raises:
        ValueError: for one input under two names, a modality that the model lacks, and a mask without what it masks.
    """
    streams = {}
    for modality, groups in VALUES.items():
        given = [(group[0], name) for group in groups for name in group if name in inputs]
        masks = [name for name in MASKS[modality] if name in inputs]
        for names in ([name for _, name in given], masks):
            if len(names) > 1:
                raise ValueError(
                    f"{' and '.join(f'`{name}`' for name in names)} are the same input: give one of them."
                )
        if masks and not given:
            raise ValueError(f"`{masks[0]}` came without the {modality} that it masks.")
        if not given:
            continue
        if modality not in config.encoders:
            raise ValueError(f"`{given[0][1]}` is {modality}, but the model reads {' and '.join(config.encoders)}.")
        streams[modality] = Stream(given[0][0], inputs[given[0][1]], inputs[masks[0]] if masks else None)
    return streams


def reads_streams(forward: Callable) -> Callable:
    """Give `forward(self, streams, ...)` the arguments of all modalities, which come in as one dict of streams.

    Its signature shows them, because Trainer and `generate` look there for what the model takes.
    """
    own = [p for p in inspect.signature(forward).parameters.values() if p.name not in ("self", "streams")]
    named = [p.name for p in own if p.kind is not inspect.Parameter.VAR_KEYWORD]
    order = (*STREAM_ARGUMENTS, *named)

    @functools.wraps(forward)
    def wrapper(self, *args, **kwargs):
        if len(args) > len(order):
            raise TypeError(f"`forward` takes {len(order)} arguments, got {len(args)}.")
        for name, value in zip(order, args):
            if name in kwargs:
                raise TypeError(f"`{name}` was given by place and by name.")
            kwargs[name] = value
        refuse_unknown_keywords(f"{type(self).__name__}.forward()", kwargs, order)
        inputs = {name: kwargs.pop(name, None) for name in STREAM_ARGUMENTS}
        streams = take_streams(self.config, {name: value for name, value in inputs.items() if value is not None})
        return forward(self, streams, **kwargs)

    keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD
    tensors = [inspect.Parameter(n, keyword, default=None, annotation=torch.Tensor | None) for n in STREAM_ARGUMENTS]
    self_parameter = inspect.Parameter("self", keyword)
    wrapper.__signature__ = inspect.Signature([self_parameter, *tensors, *own])
    wrapper.__doc__ = ARGUMENTS_DOC + (forward.__doc__ or "").replace("Args:", "", 1)
    return wrapper
