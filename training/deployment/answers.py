"""What a served model can be asked, by the name of the endpoint.

Shapes: B batch, L labels, P projection size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .request_fields import (
    CaptionFields,
    ClassifyFields,
    ClassifyWithTextFields,
    EmbedFields,
    QuestionFields,
    RequestFields,
    SimilarityFields,
    WrittenAnswerFields,
)
from .served_model import ServedModel


@dataclass(frozen=True)
class Endpoint:
    """
    Args:
        fields: What a request gives.
        answer: From the model and the fields to what is sent back as JSON.
        summary: One line for the documentation.
    """

    fields: type[RequestFields]
    answer: Callable[[ServedModel, Any], dict]
    summary: str


def classify(served: ServedModel, fields: ClassifyFields) -> dict:
    inputs = served.read(images=[fields.image])
    return {"labels": _best_labels(served, inputs, fields.top_k)}


def classify_with_text(served: ServedModel, fields: ClassifyWithTextFields) -> dict:
    inputs = served.read(text=[fields.text], images=[fields.image])
    return {"labels": _best_labels(served, inputs, fields.top_k)}


def choose_answer(served: ServedModel, fields: QuestionFields) -> dict:
    inputs = served.read(text=[fields.question], images=[fields.image])
    answers = _best_labels(served, inputs, fields.top_k)
    return {"answer": answers[0]["label"], "answers": answers}


def write_answer(served: ServedModel, fields: WrittenAnswerFields) -> dict:
    inputs = served.read(text=[fields.question], images=[fields.image])
    return {"answer": _write(served, inputs, fields.max_new_tokens)}


def write_caption(served: ServedModel, fields: CaptionFields) -> dict:
    text = {"text": [fields.prompt]} if fields.prompt else {}
    inputs = served.read(**text, images=[fields.image])
    prompt_length = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
    return {"caption": _write(served, inputs, fields.max_new_tokens, prompt_length)}


def embed(served: ServedModel, fields: EmbedFields) -> dict:
    """Embeddings of norm 1 in one space."""
    return {name: values.tolist() for name, values in _embeddings(served, fields).items()}


def compare(served: ServedModel, fields: SimilarityFields) -> dict:
    """Scores by the dual encoder, and for each text the probability of each image among those given."""
    embeddings = _embeddings(served, fields)
    scores = served.constants["logit_scale"] * embeddings["text_embeds"] @ embeddings["image_embeds"].T
    scores = scores + served.constants["logit_bias"]
    return {"scores_per_text": scores.tolist(), "probabilities_per_text": scores.softmax(-1).tolist()}


ENDPOINTS = {
    "RelPosViTForImageClassification": {
        "classify": Endpoint(ClassifyFields, classify, "The likeliest labels of an image."),
    },
    "MultiModalForClassification": {
        "classify": Endpoint(
            ClassifyWithTextFields, classify_with_text, "The likeliest labels of an image and a text."
        ),
    },
    "MultiModalForVisualQuestionAnswering": {
        "answer": Endpoint(QuestionFields, choose_answer, "The likeliest answers to a question about an image."),
    },
    "MultiModalForConditionalGeneration": {
        "answer": Endpoint(WrittenAnswerFields, write_answer, "A written answer to a question about an image."),
    },
    "MultiModalForCaptioning": {
        "caption": Endpoint(CaptionFields, write_caption, "A caption of an image."),
    },
    "MultiModalForRetrieval": {
        "embed": Endpoint(EmbedFields, embed, "Embeddings of texts and images."),
        "similarity": Endpoint(SimilarityFields, compare, "How well each text fits each image."),
    },
}


def endpoints_of(served: ServedModel) -> dict[str, Endpoint]:
    """
    Raises:
        ValueError: for a model that answers nothing, and one that reads no pixels.
    """
    if served.model_class not in ENDPOINTS:
        raise ValueError(f"{served.model_class} cannot be served: expected one of {', '.join(ENDPOINTS)}.")
    return ENDPOINTS[served.model_class]


def _best_labels(served, inputs, count):
    logits = served.programs["model"](**inputs)["logits"][0]
    several = served.config.problem_type == "multi_label_classification"
    scores = logits.sigmoid() if several else logits.softmax(-1)
    best = scores.topk(min(count, len(scores)))
    return [
        {"label": served.config.id2label[index], "score": score}
        for score, index in zip(best.values.tolist(), best.indices.tolist())
    ]


def _write(served, inputs, max_new_tokens, prompt_length=0):
    """Text of at most `max_new_tokens`, and no more than the decoder has positions for: the last token needs none, BOS
    has one."""
    positions = served.config.decoder_config.max_position_embeddings
    if prompt_length >= positions:
        raise ValueError(f"prompt: expected at most {positions - 1} tokens, got {prompt_length}")
    ids = served.generate(**inputs, max_new_tokens=min(max_new_tokens, positions - prompt_length))
    return served.processor.tokenizer.decode(ids[0], skip_special_tokens=True)


def _embeddings(served, fields) -> dict[str, torch.Tensor]:
    embeddings = {}
    if fields.texts:
        inputs = served.read(text=fields.texts)
        embeddings |= served.programs["text_encoder"](**inputs)
    if fields.images:
        inputs = served.read(images=fields.images)
        embeddings |= served.programs["image_encoder"](**inputs)
    return embeddings
