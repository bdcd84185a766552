"""The tasks of `omnilatent finetune`: what each reads, which model learns it, and how that is judged.

Shapes: B batch.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch

from ..data import (
    CaptioningCollator,
    CaptioningDataset,
    ClassificationCollator,
    DrawingCollator,
    ImageTextDataset,
    MultiModalDataset,
    RetrievalCollator,
    TaskCollator,
    VQACollator,
    VQADataset,
    WrittenAnswersCollator,
)
from .classification_metrics import accuracy, f1_score
from .recall_metrics import number_pictures, retrieval_metrics
from .reranking import EncodedPair, rerank_nearest
from .text_metrics import caption_metrics, vqa_accuracy


class FinetuneTask:
    """
    What a run needs to know of its task.

    Args:
        processor: Of the model.
        known: Answers or labels in the order of the classes, where the task has classes.
        several: Whether samples have several answers or labels.
        max_length: Most tokens of a text; the rest is cut off.
        num_beams: Beams of written texts.
    """

    model_task: ClassVar[str]  # as `create_model` calls it
    dataset_class: ClassVar[type[MultiModalDataset]]
    texts: ClassVar[tuple[str, ...]]  # where a sample has its texts
    has_classes: ClassVar[bool] = False
    target: ClassVar[str | None] = None  # where a sample has its classes
    metric: ClassVar[str]  # the best model is the one with most of it
    ceiling: ClassVar[float | None] = 1.0  # the most of it that there can be

    def __init__(
        self,
        processor,
        known: Sequence[str] = (),
        several: bool = False,
        max_length: int | None = None,
        num_beams: int = 1,
    ):
        self.processor = processor
        self.known = list(known)
        self.several = several
        self.max_length = max_length
        self.num_beams = num_beams

    def collator(self, training: bool) -> TaskCollator:
        """Makes batches of samples."""
        raise NotImplementedError(f"{type(self).__name__} must say how batches are made.")

    def score(self, model, inputs: Mapping) -> list[dict]:
        """For each sample of a batch what `figures` needs, on the CPU."""
        raise NotImplementedError(f"{type(self).__name__} must say how a model is judged.")

    def figures(self, model, rows: Sequence[Mapping]) -> dict[str, float]:
        """The metrics, from the scores of all samples."""
        raise NotImplementedError(f"{type(self).__name__} must say how a model is judged.")

    def write(self, model, **inputs) -> list[str]:
        """The texts that a model writes."""
        length = self.max_length or model.config.decoder_config.max_position_embeddings
        ids = model.generate(**inputs, max_length=length, num_beams=self.num_beams, do_sample=False)
        texts = self.processor.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [text.strip() for text in texts]


class RetrievalTask(FinetuneTask):
    """Captions and pictures, to find one by the other; a model that crosses them ranks the nearest again."""

    model_task = "retrieval"
    dataset_class = ImageTextDataset
    texts = ("captions",)
    metric = "R@1"

    def collator(self, training):
        return RetrievalCollator(self.processor, max_length=self.max_length, training=training)

    def score(self, model, inputs):
        ids = inputs["caption_ids"].tolist(), inputs["image_ids"].tolist()
        inputs = {name: values for name, values in inputs.items() if name not in ("caption_ids", "image_ids")}
        outputs = model(**inputs)
        embeds = outputs.text_embeds.float().cpu(), outputs.image_embeds.float().cpu()
        rows = [
            {"text": text, "image": image, "id": caption, "image_id": picture, "loss": outputs.loss.item()}
            for text, image, caption, picture in zip(*embeds, *ids)
        ]
        if model.config.scoring == "cross":
            for row, pair in zip(rows, EncodedPair.of_batch(model, inputs)):
                row["pair"] = pair
        return rows

    def figures(self, model, rows):
        texts, images = (torch.stack([row[name] for row in rows]) for name in ("text", "image"))
        # a picture of several captions is one candidate, not one for each of them
        firsts, columns = number_pictures(torch.tensor([row["image_id"] for row in rows]))
        similarity = texts @ images[firsts].T
        if "pair" in rows[0]:
            pairs = [row["pair"] for row in rows]
            similarity = rerank_nearest(model, pairs, similarity, pictures=firsts.tolist())
        return retrieval_metrics(similarity, torch.tensor([row["id"] for row in rows]), columns=columns)


class VQATask(FinetuneTask):
    """Questions about pictures, answered by choosing among the answers of the training data."""

    model_task = "vqa"
    dataset_class = VQADataset
    texts = ("question",)
    has_classes = True
    target = "answers"
    metric = "accuracy"

    def collator(self, training):
        return VQACollator(
            self.processor, self.known, soft=self.several, max_length=self.max_length, training=training
        )

    def score(self, model, inputs):
        outputs = model(**{name: values for name, values in inputs.items() if name != "references"})
        best = outputs.logits.argmax(dim=-1).tolist()
        return [
            {"answer": self.known[number], "references": given, "loss": outputs.loss.item()}
            for number, given in zip(best, inputs["references"])
        ]

    def figures(self, model, rows):
        return {"accuracy": vqa_accuracy([row["answer"] for row in rows], [row["references"] for row in rows])}


class WrittenVQATask(FinetuneTask):
    """Questions about pictures, answered in words that a decoder writes."""

    model_task = "generation"
    dataset_class = VQADataset
    texts = ("question", "answers")
    metric = "accuracy"

    def collator(self, training):
        return WrittenAnswersCollator(self.processor, max_length=self.max_length, training=training)

    def score(self, model, inputs):
        references = inputs["references"]
        inputs = {name: values for name, values in inputs.items() if name != "references"}
        loss = model(**inputs).loss.item()
        inputs.pop("labels")
        return [
            {"answer": text, "references": given, "loss": loss}
            for text, given in zip(self.write(model, **inputs), references)
        ]

    figures = VQATask.figures


class CaptioningTask(FinetuneTask):
    """Captions that a decoder writes for pictures."""

    model_task = "captioning"
    dataset_class = CaptioningDataset
    texts = ("captions",)
    metric = "bleu"

    def collator(self, training):
        return CaptioningCollator(self.processor, max_length=self.max_length, training=training)

    def score(self, model, inputs):
        pixels = inputs["pixel_values"]
        loss = model(pixel_values=pixels, labels=inputs["labels"]).loss.item()
        return [
            {"text": text, "references": given, "loss": loss}
            for text, given in zip(self.write(model, pixel_values=pixels), inputs["references"])
        ]

    def figures(self, model, rows):
        return caption_metrics([row["text"] for row in rows], [row["references"] for row in rows])


class ClassificationTask(FinetuneTask):
    """Labels of pictures with texts; several a sample, where the data has lists of them."""

    model_task = "classification"
    dataset_class = MultiModalDataset
    texts = ("text",)
    has_classes = True
    target = "label"
    metric = "accuracy"

    def collator(self, training):
        return ClassificationCollator(
            self.processor, self.known, several=self.several, max_length=self.max_length, training=training
        )

    def score(self, model, inputs):
        outputs = model(**{name: values for name, values in inputs.items() if name != "references"})
        if self.several:
            chosen = [row.nonzero().flatten().tolist() for row in outputs.logits > 0]
        else:
            chosen = outputs.logits.argmax(dim=-1, keepdim=True).tolist()
        return [
            {"predicted": [self.known[number] for number in row], "references": given, "loss": outputs.loss.item()}
            for row, given in zip(chosen, inputs["references"])
        ]

    def figures(self, model, rows):
        # by name, as a label that the model does not know has no number
        predicted, labels = ([row[name] for row in rows] for name in ("predicted", "references"))
        if not self.several:
            predicted, labels = ([names[0] for names in column] for column in (predicted, labels))
            return {"accuracy": accuracy(predicted, labels), "f1": f1_score(predicted, labels)}
        predicted, labels = ([set(names) for names in column] for column in (predicted, labels))
        counted = sum(map(len, predicted)) + sum(map(len, labels))
        hits = sum(len(ours & theirs) for ours, theirs in zip(predicted, labels))
        right = sum(ours == theirs for ours, theirs in zip(predicted, labels))
        return {"accuracy": right / len(rows), "f1": 2 * hits / counted if counted else 1.0}


class DrawingTask(FinetuneTask):
    """Pictures that a decoder draws for captions; judged against those for the captions of others."""

    model_task = "image_generation"
    dataset_class = CaptioningDataset
    texts = ("captions",)
    metric = "gain"
    ceiling = None

    def collator(self, training):
        return DrawingCollator(self.processor, max_length=self.max_length, training=training)

    def score(self, model, inputs):
        outputs = model(**inputs)
        wanted = inputs["labels"]
        own = (outputs.pixel_values - wanted).float().square().flatten(1).mean(dim=1)
        others = (outputs.pixel_values.roll(1, dims=0) - wanted).float().square().flatten(1).mean(dim=1)
        # a batch of one has no other
        controls = others.tolist() if len(own) > 1 else [None]
        return [
            {"own": error, "shuffled": control, "loss": outputs.loss.item()}
            for error, control in zip(own.tolist(), controls)
        ]

    def figures(self, model, rows):
        both = [row for row in rows if row["shuffled"] is not None]
        if not both:
            raise ValueError("Drawn pictures are compared with others of their batch: judge them in batches of two.")
        own, shuffled = (torch.tensor([row[name] for row in both]).mean() for name in ("own", "shuffled"))
        return {"mse": own.item(), "shuffled_mse": shuffled.item(), "gain": 10 * (shuffled / own).log10().item()}


TASKS: dict[str, type[FinetuneTask]] = {
    "retrieval": RetrievalTask,
    "vqa": VQATask,
    "written-vqa": WrittenVQATask,
    "captioning": CaptioningTask,
    "classification": ClassificationTask,
    "drawing": DrawingTask,
}
