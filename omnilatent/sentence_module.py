"""An `AudioVisualAligner` as the module of a `SentenceTransformer`, whose `encode` then takes videos and sounds."""

import os
from collections.abc import Sequence

import torch
from torch import nn

from .modeling_omni.omninet.audio_visual_aligner import AudioVisualAligner
from .processing.processing_audio_visual_aligner import AudioVisualAlignerProcessor


class AudioVisualAlignerModule(nn.Module):
    """
    What sentence-transformers (6.0 and up; the extra `sentence-transformers`) expects of a model's first module.

    All inputs of one `encode` are of one modality. Videos are files or frames (T, 3, H, W) uint8; sounds are waveforms
    (S,), `{"array": ..., "sampling_rate": ...}`, or files, also of videos by `{"audio": "clip.mp4"}`; texts are strings,
    if there is a text tower.

    Args:
        model: The aligner.
        processor: Of its towers.

    Raises:
        ValueError: in `encode`, for inputs of several modalities at once.

    Use:

        from sentence_transformers import SentenceTransformer, util

        encoder = SentenceTransformer(modules=[AudioVisualAlignerModule(model, processor)])
        videos = encoder.encode(paths)
        sounds = encoder.encode([{"audio": path} for path in paths])
        hits = util.semantic_search(sounds, videos, top_k=5)
        encoder.save("aligned")  # and SentenceTransformer("aligned", trust_remote_code=True)
    """

    save_in_root = True
    _inputs = (
        *("pixel_values_videos", "vision_timestamps", "input_values", "input_features", "audio_attention_mask"),
        *("input_ids", "attention_mask"),
    )

    def __init__(self, model: AudioVisualAligner, processor: AudioVisualAlignerProcessor):
        super().__init__()
        self.model = model
        self.processor = processor

    @property
    def modalities(self) -> list[str]:
        return ["video", "audio", *(["text"] if "text" in self.model.towers else [])]

    @property
    def tokenizer(self):
        return self.processor.tokenizer

    def preprocess(self, inputs: Sequence, prompt: str | None = None, **kwargs) -> dict[str, torch.Tensor]:
        """What `forward` reads. A prompt stands before texts and has no meaning for the others."""
        from sentence_transformers.base.modality import infer_batch_modality

        modality = infer_batch_modality(inputs, self.modalities)
        if modality not in self.modalities:
            raise ValueError(
                f"All inputs of a call must be of one modality among {', '.join(self.modalities)}; these are "
                f"{'mixed' if modality == 'message' else modality}."
            )
        values = [item[modality] if isinstance(item, dict) and modality in item else item for item in inputs]
        if modality == "text":
            return dict(self.processor(text=[(prompt or "") + text for text in values]))
        return dict(self.processor(**{"videos" if modality == "video" else modality: values}))

    def forward(self, features: dict[str, torch.Tensor], **kwargs) -> dict[str, torch.Tensor]:
        """Adds `sentence_embedding` (B, P), of norm 1."""
        inputs = {name: value for name, value in features.items() if name in self._inputs}
        output = self.model(**inputs, return_loss=False)
        embeds = (output.vision_embeds, output.audio_embeds, output.text_embeds)
        return {**features, "sentence_embedding": next(values for values in embeds if values is not None)}

    def get_embedding_dimension(self) -> int:
        return self.model.config.aligner_config.projection_dim

    def save(self, output_path: str, **kwargs):
        self.model.save_pretrained(output_path)
        self.processor.save_pretrained(output_path)

    @classmethod
    def load(cls, model_name_or_path: str | os.PathLike, **kwargs) -> "AudioVisualAlignerModule":
        """From a folder or a repository; the settings with which sentence-transformers calls it are not used."""
        return cls(
            AudioVisualAligner.from_pretrained(model_name_or_path),
            AudioVisualAlignerProcessor.from_pretrained(model_name_or_path),
        )


__all__ = ["AudioVisualAlignerModule"]
