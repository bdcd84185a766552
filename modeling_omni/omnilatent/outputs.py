"""What OmniLatent returns."""

from dataclasses import dataclass

import torch
from transformers.cache_utils import Cache
from transformers.utils import ModelOutput

from ...configuration.modalities import TEXT


@dataclass
class OmniLatentOutput(ModelOutput):
    """
    Shapes: B batch, T tokens of the sequence, L tokens of the text target, V vocabulary, M mel bands, F mel frames,
    C colours, N video frames, H and W pixels, D hidden size, P projection size.

    `output["text"]`, `output["image"]`, ... name the predictions by modality.

    Args:
        loss (`torch.Tensor` of shape (1,) or (), *optional*): Weighted sum of `losses`.
        output (`torch.Tensor`): The prediction for the first target; one of the next four.
        logits (`torch.Tensor` (B, L, V), *optional*): Text scores at the columns of the text target, at the kept
            positions of a plain text sequence, or, for a text target without any token, at the source positions.
        image (`torch.Tensor` (B, C, H, W), *optional*): Pixels in about [-1, 1].
        audio (`torch.Tensor` (B, M, F), *optional*): Log-mel frames.
        video (`torch.Tensor` (B, C, N, H, W), *optional*): Pixels in about [-1, 1].
        losses (`dict[str, torch.Tensor]`, *optional*): The loss of each target modality, of the contrast
            (`"contrastive"`) and of the text readout (`"ctc"`), unweighted.
        source_embeds (`torch.Tensor` (B, P), *optional*): Unit-norm embedding of the sources together.
        target_embeds (`dict[str, torch.Tensor]`, *optional*): Unit-norm embedding (B, P) of each target's twin.
        last_hidden_state (`torch.Tensor` (B, T, D)): Backbone output.
        past_key_values (`Cache`, *optional*): Keys and values, with `use_cache`.
        hidden_states, attentions (`tuple[torch.Tensor]`, *optional*): Per layer, as in every transformers model.
    """

    loss: torch.Tensor | None = None
    output: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    image: torch.Tensor | None = None
    audio: torch.Tensor | None = None
    video: torch.Tensor | None = None
    losses: dict[str, torch.Tensor] | None = None
    source_embeds: torch.Tensor | None = None
    target_embeds: dict[str, torch.Tensor] | None = None
    last_hidden_state: torch.Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None

    def __getitem__(self, key):
        return super().__getitem__("logits" if key == TEXT else key)
