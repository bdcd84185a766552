"""Words, pictures, sounds and videos to what the multimodal models read, and what they write to words."""

import torch
from transformers import BatchFeature, ViTImageProcessor
from transformers.processing_utils import ProcessorMixin

from ..configuration.configuration_multimodal import MultiModalConfig
from ..configuration.modalities import IGNORE_INDEX
from .feature_extraction_omnilatent import OmniLatentFeatureExtractor
from .tokenization_omnilatent import NUM_TEXT_IDS, OmniLatentTokenizer
from .video_processing_omnilatent import OmniLatentVideoProcessor


class MultiModalProcessor(ProcessorMixin):
    r"""
    A tokenizer and the processors of pictures, sounds and videos behind one call. A model reads text and one of the
    others; for what it does not read, the defaults are there.

    Args:
        image_processor: For `images`; any of transformers'.
        tokenizer: For `text`; any of transformers'.
        feature_extractor: For `audio`; any of transformers'.
        video_processor: For `videos`; any of transformers'. A call that says nothing of `num_frames` gets as many as
            this has.

    Example:

    ```python
    >>> from PIL import Image
    >>> from omnilatent import MultiModalConfig, MultiModalProcessor

    >>> processor = MultiModalProcessor.from_config(MultiModalConfig.tiny())
    >>> picture = Image.new("RGB", (80, 60), "orange")
    >>> inputs = processor(text=["a square", "two"], images=[picture] * 2, padding=True, return_tensors="pt")
    >>> {name: tuple(values.shape) for name, values in inputs.items()}
    {'input_ids': (2, 8), 'attention_mask': (2, 8), 'pixel_values': (2, 3, 48, 48)}
    >>> processor.encode_targets(["red", "a"])["labels"]
    tensor([[ 117,  104,  103,    2],
            [ 100,    2, -100, -100]])
    ```
    """

    def __init__(
        self, image_processor=None, tokenizer=None, feature_extractor=None, video_processor=None, chat_template=None
    ):
        super().__init__(
            image_processor or ViTImageProcessor(),
            tokenizer or OmniLatentTokenizer(special_token_offset=NUM_TEXT_IDS),
            feature_extractor or OmniLatentFeatureExtractor(),
            video_processor or OmniLatentVideoProcessor(),
            chat_template=chat_template,
        )

    @classmethod
    def from_config(cls, config: MultiModalConfig, tokenizer=None) -> "MultiModalProcessor":
        """
        The processor that fits a model with encoders of ours.

        Args:
            config: The model's.
            tokenizer: Used in place of the byte-level one.

        Raises:
            ValueError: for a model whose second encoder reads neither pixels nor spectrograms, or whose vocabulary is
                smaller than the tokenizer's.
        """
        if tokenizer is None:
            longest = getattr(config.text_config, "max_position_embeddings", None)
            tokenizer = OmniLatentTokenizer(special_token_offset=NUM_TEXT_IDS, model_max_length=longest)
        for name, part in (("text_config", config.text_config), ("decoder_config", config.decoder_config)):
            if part is not None and part.vocab_size < len(tokenizer):
                raise ValueError(
                    f"`{name}` has a `vocab_size` of {part.vocab_size}, smaller than the tokenizer's {len(tokenizer)}."
                )
        part = config.encoders[config.second_modality]
        word = "num_mel_bins" if config.second_modality == "audio" else "image_size"
        if getattr(part, word, None) is None:
            what = "spectrograms" if config.second_modality == "audio" else "pixels"
            raise ValueError(
                f"The model reads no {what}: its `{config.second_modality}_config` has no `{word}`. Features come as "
                f"they are, as `{config.second_modality}_features`."
            )
        if config.second_modality == "audio":
            return cls(
                tokenizer=tokenizer, feature_extractor=OmniLatentFeatureExtractor(feature_size=part.num_mel_bins)
            )
        side = part.image_size
        size = {"height": side, "width": side} if isinstance(side, int) else {"height": side[0], "width": side[1]}
        if config.second_modality == "image":
            return cls(ViTImageProcessor(size=size), tokenizer)
        measures = {name: getattr(part, name) for name in ("num_frames", "patch_size", "tubelet_size")}
        return cls(tokenizer=tokenizer, video_processor=OmniLatentVideoProcessor(size=size, **measures))

    def __call__(self, images=None, text=None, videos=None, audio=None, **kwargs) -> BatchFeature:
        """
        Args:
            images, text, videos, audio: As the processors of each take them.
            kwargs: As of transformers' processors.

        Returns:
            Some of `input_ids`, `attention_mask`, `pixel_values`, `pixel_values_videos`, `input_features` and
            `audio_attention_mask`.
        """
        if videos is not None and "num_frames" not in kwargs:
            kwargs["videos_kwargs"] = {"num_frames": self.video_processor.num_frames} | kwargs.get("videos_kwargs", {})
        inputs = super().__call__(images=images, text=text, videos=videos, audio=audio, **kwargs)
        if "input_features_mask" in inputs:  # as our models call it
            inputs["audio_attention_mask"] = inputs.pop("input_features_mask")
        return inputs

    def encode_targets(self, texts: list[str], max_length: int | None = None) -> dict[str, torch.Tensor]:
        """
        Texts that a model is to write.

        Args:
            texts: What is to be written.
            max_length: Cut longer ones to so many tokens, the end token among them.

        Returns:
            `labels` (B, T): the ids of each text and the end token, then -100.
        """
        end = self.tokenizer.eos_token_id if self.tokenizer.eos_token_id is not None else self.tokenizer.sep_token_id
        rows = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        if max_length is not None:
            rows = [row[: max_length - 1] for row in rows]
        rows = [torch.tensor([*row, end]) for row in rows]
        return {"labels": torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORE_INDEX)}


__all__ = ["MultiModalProcessor"]
