"""Words and pictures to what the multimodal models read, and what they write to words."""

import torch
from transformers import ViTImageProcessor
from transformers.processing_utils import ProcessorMixin

from ..configuration.configuration_multimodal import MultiModalConfig
from ..configuration.modalities import IGNORE_INDEX
from .tokenization_omnilatent import NUM_TEXT_IDS, OmniLatentTokenizer


class MultiModalProcessor(ProcessorMixin):
    r"""
    A tokenizer and an image processor behind one call.

    Args:
        image_processor: For `images`; any of transformers'.
        tokenizer: For `text`; any of transformers'.

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

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None):
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    @classmethod
    def from_config(cls, config: MultiModalConfig, tokenizer=None) -> "MultiModalProcessor":
        """
        The processor that fits a model with encoders of ours.

        Args:
            config: The model's.
            tokenizer: Used in place of the byte-level one.

        Raises:
            ValueError: for a model that reads no pixels, or whose vocabulary is smaller than the tokenizer's.
        """
        size = getattr(config.image_config, "image_size", None)
        if size is None:
            raise ValueError("The model reads no pixels: its config has no `image_config` with `image_size`.")
        size = {"height": size, "width": size} if isinstance(size, int) else {"height": size[0], "width": size[1]}
        if tokenizer is None:
            longest = getattr(config.text_config, "max_position_embeddings", None)
            tokenizer = OmniLatentTokenizer(special_token_offset=NUM_TEXT_IDS, model_max_length=longest)
        for name, part in (("text_config", config.text_config), ("decoder_config", config.decoder_config)):
            if part is not None and part.vocab_size < len(tokenizer):
                raise ValueError(
                    f"`{name}` has a `vocab_size` of {part.vocab_size}, smaller than the tokenizer's {len(tokenizer)}."
                )
        return cls(ViTImageProcessor(size=size), tokenizer)

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
