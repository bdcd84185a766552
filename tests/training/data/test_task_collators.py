"""Batches of each task: padding, masks, labels; and the same tensors whether encoded at once or before."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessorPil

from omnilatent import OmniLatentTokenizer
from omnilatent.training.data import (
    CaptioningCollator,
    ClassificationCollator,
    EncodedDataset,
    RetrievalCollator,
    VQACollator,
    answer_scores,
)

PICTURE = Image.new("RGB", (7, 5), "red")


@pytest.fixture(scope="module")
def processor():
    size = {"height": 8, "width": 8}
    return SimpleNamespace(tokenizer=OmniLatentTokenizer(), image_processor=ViTImageProcessorPil(size=size))


def ids(text):
    return [3 + byte for byte in text.encode()]


def test_texts_are_padded_on_the_right_and_masked(processor):
    samples = [{"image": PICTURE, "captions": [text], "sample_id": n} for n, text in enumerate(("abc", "é"))]
    batch = RetrievalCollator(processor)(samples)
    assert batch["input_ids"].tolist() == [ids("abc"), [*ids("é"), 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["pixel_values"].shape == (2, 3, 8, 8)
    assert batch["sample_ids"].tolist() == [0, 1]


def test_samples_of_a_stream_get_the_id_of_their_caption(processor):
    samples = [{"image": PICTURE, "captions": [text]} for text in ("a", "b", "a")]
    first, second, third = RetrievalCollator(processor)(samples)["sample_ids"].tolist()
    assert first == third != second


def test_captions_to_write_end_with_the_end_token_and_padding_is_ignored(processor):
    batch = CaptioningCollator(processor)([{"image": PICTURE, "captions": [text]} for text in ("ab", "c")])
    assert batch["labels"].tolist() == [[*ids("ab"), 2], [*ids("c"), 2, -100]]
    assert "references" not in batch


def test_evaluation_has_all_captions_as_references(processor):
    samples = [{"image": PICTURE, "captions": ["ab", "cd"]}, {"image": PICTURE, "captions": ["e"]}]
    batch = CaptioningCollator(processor, training=False)(samples)
    assert batch["references"] == [["ab", "cd"], ["e"]]
    assert batch["labels"][0].tolist() == [*ids("ab"), 2]


def test_training_draws_one_of_several_captions(processor):
    torch.manual_seed(0)
    collator = CaptioningCollator(processor)
    drawn = {collator([{"image": PICTURE, "captions": ["a", "b"]}])["labels"][0, 0].item() for _ in range(20)}
    assert drawn == {*ids("a"), *ids("b")}


def test_long_texts_are_cut(processor):
    sample = {"image": PICTURE, "captions": ["abcdef"], "sample_id": 0}
    assert RetrievalCollator(processor, max_length=4)([sample])["input_ids"].tolist() == [ids("abcd")]
    assert CaptioningCollator(processor, max_length=4)([sample])["labels"].tolist() == [[*ids("abc"), 2]]


def question(*answers):
    return {"image": PICTURE, "question": "?", "answers": list(answers)}


def test_answers_become_class_ids(processor):
    batch = VQACollator(processor, ["yes", "no"])([question("no"), question("perhaps"), question("yes")])
    assert batch["labels"].tolist() == [1, -100, 0]


def test_answers_of_several_people_become_soft_targets(processor):
    said = ["red"] * 7 + ["pink"] * 2 + ["rose"]
    batch = VQACollator(processor, ["pink", "blue", "red"], soft=True)([question(*said), question("blue")])
    torch.testing.assert_close(batch["labels"], torch.tensor([[0.6, 0, 1], [0, 1, 0]]))


@pytest.mark.parametrize(("count", "score"), [(1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_scores_of_ten_people_are_those_of_the_vqa_challenge(count, score):
    answers = ["a"] * count + [f"other {n}" for n in range(10 - count)]
    # the challenge's own words: the mean over the ten sets of nine people of min(1, how many said so / 3)
    sets = [answers[:left] + answers[left + 1 :] for left in range(10)]
    assert sum(min(1, nine.count("a") / 3) for nine in sets) / 10 == pytest.approx(score)
    assert answer_scores(answers)["a"] == pytest.approx(score)


def test_labels_become_class_ids_or_several(processor):
    samples = [{"image": PICTURE, "text": "t", "label": label} for label in ("b", "c")]
    assert ClassificationCollator(processor, ["a", "b"])(samples)["labels"].tolist() == [1, -100]
    samples = [{"image": PICTURE, "text": "t", "label": label} for label in (["a", "c"], [])]
    labels = ClassificationCollator(processor, ["a", "b", "c"], several=True)(samples)["labels"]
    assert labels.tolist() == [[1, 0, 1], [0, 0, 0]] and labels.is_floating_point()


def test_encoding_before_gives_the_same_batch(processor):
    samples = [
        {"image": Image.new("RGB", (n + 2, 5), (n, 99, 0)), "captions": ["x" * n], "sample_id": n} for n in range(1, 6)
    ]
    collator = RetrievalCollator(processor)
    encoded = EncodedDataset(samples, collator, chunk=2)
    assert len(encoded) == 5
    at_once, before = collator(samples), collator.pad([encoded[index] for index in range(5)])
    assert at_once.keys() == before.keys()
    assert all(torch.equal(at_once[name], before[name]) for name in at_once)


def test_a_stream_can_be_encoded_before(processor):
    samples = ({"image": PICTURE, "captions": [text]} for text in "abc")
    assert len(EncodedDataset(samples, CaptioningCollator(processor), chunk=2)) == 3
