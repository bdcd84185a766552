"""The pipelines of transformers with our models, loaded from a folder by the pipeline's own means."""

import pytest
import torch
from PIL import Image
from transformers import AutoModelForVisualQuestionAnswering, pipeline

from omnilatent import (
    MultiModalConfig,
    MultiModalForCaptioning,
    MultiModalForConditionalGeneration,
    MultiModalForVisualQuestionAnswering,
    MultiModalProcessor,
    create_model,
)

RED, BLUE = Image.new("RGB", (60, 50), "red"), Image.new("RGB", (40, 70), "blue")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """By task: the model, its processor and their folder."""
    made = {}

    def make(task):
        if task not in made:
            folder = tmp_path_factory.mktemp("pipelines") / str(task)
            model = create_model(MultiModalConfig.tiny(), task=task).eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
            processor = MultiModalProcessor.from_config(model.config)
            model.save_pretrained(folder)
            processor.save_pretrained(folder)
            made[task] = model, processor, str(folder)
        return made[task]

    return make


def test_zero_shot_image_classification_ranks_labels_as_the_retrieval_model_does(saved):
    model, processor, folder = saved("retrieval")
    pipe = pipeline("zero-shot-image-classification", model=folder)
    labels = ["a red square", "two blue circles", "nine"]
    results = pipe([RED, BLUE], candidate_labels=labels, hypothesis_template="{}")
    inputs = processor(text=labels, images=[RED, BLUE], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs, return_loss=False).logits_per_image.softmax(-1)
    for result, row in zip(results, expected):
        scores = {entry["label"]: entry["score"] for entry in result}
        torch.testing.assert_close(torch.tensor([scores[label] for label in labels]), row, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("task", "kind"), [("generation", MultiModalForConditionalGeneration), ("captioning", MultiModalForCaptioning)]
)
def test_image_text_to_text_writes_what_generate_writes(saved, task, kind):
    model, processor, folder = saved(task)
    pipe = pipeline("image-text-to-text", model=folder)
    assert type(pipe.model) is kind  # the class that was saved
    (result,) = pipe(images=RED, text="what is", max_new_tokens=6, return_tensors=True)
    inputs = processor(text="what is", images=RED, return_tensors="pt")
    assert result["generated_token_ids"].tolist() == model.generate(**inputs, max_new_tokens=6)[0].tolist()


def test_image_text_to_text_captions_without_a_prompt(saved):
    model, processor, folder = saved("captioning")
    pipe = pipeline("image-text-to-text", model=folder)
    (result,) = pipe(images=BLUE, text="", max_new_tokens=6)
    ids = model.generate(**processor(images=BLUE, return_tensors="pt"), max_new_tokens=6)[0]
    assert result["generated_text"] == processor.tokenizer.decode(ids, skip_special_tokens=True)


def test_feature_extraction_gives_the_tokens_of_text_and_of_pictures(saved):
    model, processor, folder = saved(None)
    of_text = pipeline("feature-extraction", model=folder)("seven")
    of_image = pipeline("image-feature-extraction", model=folder)(RED)
    with torch.no_grad():
        text = model(**processor(text="seven", return_tensors="pt")).last_hidden_state
        image = model(**processor(images=RED, return_tensors="pt")).last_hidden_state
    torch.testing.assert_close(torch.tensor(of_text), text, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.tensor(of_image), image, rtol=0, atol=1e-5)


def test_auto_class_of_question_answering_loads_the_model(saved):
    # transformers 5 has no pipeline for it, but the Auto class
    folder = saved("vqa")[2]
    assert type(AutoModelForVisualQuestionAnswering.from_pretrained(folder)) is MultiModalForVisualQuestionAnswering
