"""What the multimodal models return."""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput

from .token_encoder import EncoderOutput


@dataclass
class MultiModalOutput(ModelOutput):
    """
    Shapes: B batch, S tokens, D hidden size of the fusion.

    Args:
        last_hidden_state (`torch.Tensor` (B, S, D)): Fused tokens; of one modality alone, its tokens.
        pooler_output (`torch.Tensor` (B, D), *optional*): One vector of them.
        attention_mask (`torch.Tensor` (B, S), *optional*): 1 where tokens are real; `None`: all are.
        text_model_output, image_model_output, audio_model_output, video_model_output (`EncoderOutput`, *optional*): Of
            the encoder of each modality that was given.
    """

    last_hidden_state: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    attention_mask: torch.Tensor | None = None
    text_model_output: EncoderOutput | None = None
    image_model_output: EncoderOutput | None = None
    audio_model_output: EncoderOutput | None = None
    video_model_output: EncoderOutput | None = None


@dataclass
class RetrievalOutput(ModelOutput):
    """
    Shapes: T texts, N pictures (or sounds, or videos), P projection size.

    Args:
        loss (`torch.Tensor` of shape (), *optional*): The contrast, and with `scoring="cross"` the matching loss.
        contrastive_loss, matching_loss (`torch.Tensor` of shape (), *optional*): Its parts, unweighted.
        logits_per_text (`torch.Tensor` (T, N), *optional*): Scores, texts in rows.
        logits_per_image, logits_per_audio, logits_per_video (`torch.Tensor` (N, T), *optional*): The same, turned.
        text_embeds (`torch.Tensor` (T, P), *optional*): Embeddings of norm 1.
        image_embeds, audio_embeds, video_embeds (`torch.Tensor` (N, P), *optional*): Embeddings of norm 1.
        text_model_output, image_model_output, audio_model_output, video_model_output (`EncoderOutput`, *optional*): Of
            the encoders.
    """

    loss: torch.Tensor | None = None
    contrastive_loss: torch.Tensor | None = None
    matching_loss: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    logits_per_image: torch.Tensor | None = None
    logits_per_audio: torch.Tensor | None = None
    logits_per_video: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    audio_embeds: torch.Tensor | None = None
    video_embeds: torch.Tensor | None = None
    text_model_output: EncoderOutput | None = None
    image_model_output: EncoderOutput | None = None
    audio_model_output: EncoderOutput | None = None
    video_model_output: EncoderOutput | None = None


@dataclass
class ImageGenerationOutput(ModelOutput):
    """
    Args:
        loss (`torch.Tensor` of shape (), *optional*): Mean squared error of the pixels.
        pixel_values (`torch.Tensor` (B, C, H, W)): The pictures, in the range of the pictures learned from.
    """

    loss: torch.Tensor | None = None
    pixel_values: torch.Tensor | None = None
