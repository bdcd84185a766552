"""From samples to batches of each task: words become ids, pictures pixels, and short rows are padded and masked.

Shapes: B batch, T text tokens, L target tokens, A answers or classes.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ...configuration.modalities import IGNORE_INDEX
from .task_datasets import id_of, id_of_picture
from .vqa_scores import answer_scores


class TaskCollator:
    """
    The steps that tasks share. `encode` makes tensors of each sample by itself, `pad` joins them; calling it does both.

    Args:
        processor: With a `tokenizer` and an `image_processor`.
        max_length: Most tokens of a text; the rest is cut off. `None`: all.
        training: Draw one of several captions at random; otherwise the first is taken.
    """

    drawn: ClassVar[str | None] = None  # where a sample has texts of which training draws one

    def __init__(self, processor, max_length: int | None = None, training: bool = True):
        self.processor = processor
        self.max_length = max_length
        self.training = training

    def __call__(self, samples: Sequence[Mapping]) -> dict:
        encoded = "image" not in samples[0]  # those of an EncodedDataset are
        return self.pad(samples if encoded else self.encode(samples))

    def encode(self, samples: Sequence[Mapping]) -> list[dict]:
        """Tensors of each sample without a batch dimension; texts not padded."""
        pixels = self.processor.image_processor([sample["image"] for sample in samples], return_tensors="pt")
        return [
            {"pixel_values": values, **self.encode_words(sample)}
            for values, sample in zip(pixels["pixel_values"], samples)
        ]

    def encode_words(self, sample: Mapping) -> dict:
        """What a task makes of a sample's words."""
        raise NotImplementedError

    def pad(self, encoded: Sequence[Mapping]) -> dict:
        """A batch: `input_ids` and `labels` of tokens are padded on the right, the first with an `attention_mask`."""
        batch = {}
        for name in encoded[0]:
            values = [sample[name] for sample in encoded]
            if name == "input_ids":
                batch[name] = pad_sequence(
                    values, batch_first=True, padding_value=self.processor.tokenizer.pad_token_id
                )
                batch["attention_mask"] = pad_sequence([torch.ones_like(ids) for ids in values], batch_first=True)
            elif name == "labels" and values[0].ndim == 1 and not values[0].is_floating_point():
                batch[name] = pad_sequence(values, batch_first=True, padding_value=IGNORE_INDEX)
            else:
                batch[name] = torch.stack(values) if isinstance(values[0], Tensor) else values
        return batch

    def to_ids(self, text: str) -> Tensor:
        """(T,) ids of a text to read, with the special tokens that the tokenizer adds."""
        cut = {} if self.max_length is None else {"truncation": True, "max_length": self.max_length}
        return torch.tensor(self.processor.tokenizer(text, **cut)["input_ids"])

    def to_target_ids(self, text: str) -> Tensor:
        """(L,) ids of a text to write: its own and the end token."""
        tokenizer = self.processor.tokenizer
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if self.max_length is not None:
            ids = ids[: self.max_length - 1]
        # BERT's and its like end with SEP
        end = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
        return torch.tensor([*ids, end])

    def draws(self, sample: Mapping) -> bool:
        """Whether this sample may be another each time."""
        return self.training and self.drawn is not None and len(set(sample[self.drawn])) > 1

    def choose(self, captions: Sequence[str]) -> str:
        if len(captions) == 1 or not self.training:
            return captions[0]
        return captions[torch.randint(len(captions), ()).item()]


class RetrievalCollator(TaskCollator):
    """
    Pictures and captions, as [`ImageTextDataset`] has them: `pixel_values`, `input_ids` and `attention_mask` (B, T),
    and `sample_ids` (B,), equal ones being the same caption. Beside training also `caption_ids` and `image_ids` (B,),
    equal ones being the same words and the same picture.
    """

    drawn = "captions"

    def encode_words(self, sample):
        caption = self.choose(sample["captions"])
        caption_id = id_of(caption)
        sample_id = sample.get("sample_id", caption_id)  # a stream has none
        encoded = {"input_ids": self.to_ids(caption), "sample_ids": torch.tensor(sample_id)}
        if self.training:
            return encoded
        picture_id = id_of_picture(sample["image"])
        return {**encoded, "caption_ids": torch.tensor(caption_id), "image_ids": torch.tensor(picture_id)}


class VQACollator(TaskCollator):
    """
    Pictures, questions and, as `labels`, their answers among those known: class ids (B,), with -100 for an unknown
    one, or, if people were asked several times, soft targets (B, A), each answer's score as in VQA accuracy.

    Args:
        answers: The known ones, in the order of the classes.
        soft: Make soft targets.
        kwargs: As of [`TaskCollator`].
    """

    def __init__(self, processor, answers: Sequence[str], soft: bool = False, **kwargs):
        super().__init__(processor, **kwargs)
        self.ids = {answer: number for number, answer in enumerate(answers)}
        self.soft = soft

    def encode_words(self, sample):
        encoded = {"input_ids": self.to_ids(sample["question"]), "labels": self._labels(sample["answers"])}
        return encoded if self.training else {**encoded, "references": sample["answers"]}

    def _labels(self, answers):
        if not self.soft:
            return torch.tensor(self.ids.get(answers[0], IGNORE_INDEX))
        labels = torch.zeros(len(self.ids))
        for answer, score in answer_scores(answers).items():
            if answer in self.ids:
                labels[self.ids[answer]] = score
        return labels


class ClassificationCollator(TaskCollator):
    """
    Pictures, texts and, as `labels`, class ids (B,), with -100 for an unknown one, or, if samples have several labels,
    (B, A) of 0 and 1. Beside training also `references`: for each picture the list of its labels, known or not.

    Args:
        labels: The known ones, in the order of the classes.
        several: Whether a sample may have any number of labels.
        kwargs: As of [`TaskCollator`].
    """

    def __init__(self, processor, labels: Sequence[str], several: bool = False, **kwargs):
        super().__init__(processor, **kwargs)
        self.ids = {label: number for number, label in enumerate(labels)}
        self.several = several

    def encode_words(self, sample):
        given = sample["label"] if isinstance(sample["label"], list) else [sample["label"]]
        encoded = {"input_ids": self.to_ids(sample["text"]), "labels": self._labels(given)}
        return encoded if self.training else {**encoded, "references": given}

    def _labels(self, given):
        if not self.several:
            return torch.tensor(self.ids.get(given[0], IGNORE_INDEX))
        return torch.zeros(len(self.ids)).index_fill(
            0, torch.tensor([self.ids[one] for one in given if one in self.ids], dtype=torch.long), 1.0
        )


class CaptioningCollator(TaskCollator):
    """
    Pictures and, as `labels` (B, L), the ids of a caption with the end token, padded with -100. Beside training also
    `references`: for each picture the list of its captions.
    """

    drawn = "captions"

    def encode_words(self, sample):
        encoded = {"labels": self.to_target_ids(self.choose(sample["captions"]))}
        return encoded if self.training else {**encoded, "references": sample["captions"]}


class WrittenAnswersCollator(TaskCollator):
    """
    Pictures, questions and, as `labels` (B, L), the ids of an answer with the end token, padded with -100. Beside
    training also `references`: for each question all its answers.
    """

    drawn = "answers"

    def encode_words(self, sample):
        encoded = {
            "input_ids": self.to_ids(sample["question"]),
            "labels": self.to_target_ids(self.choose(sample["answers"])),
        }
        return encoded if self.training else {**encoded, "references": sample["answers"]}


class DrawingCollator(TaskCollator):
    """Captions and, as `labels` (B, C, H, W), the pictures to draw for them."""

    drawn = "captions"

    def encode(self, samples):
        encoded = super().encode(samples)
        return [{"labels": one.pop("pixel_values"), **one} for one in encoded]

    def encode_words(self, sample):
        return {"input_ids": self.to_ids(self.choose(sample["captions"]))}
