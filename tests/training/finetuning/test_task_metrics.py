"""Metrics of tasks against numbers that can be counted by hand."""

import random

import pytest
import torch

from omnilatent.training.finetuning import caption_metrics, recall_among, retrieval_metrics, vqa_accuracy
from omnilatent.training.finetuning.recall_metrics import chance_of_recall


def test_recall_counts_the_nearest_of_several_right_candidates():
    similarity = torch.tensor([[0.9, 0.8, 0.1], [0.9, 0.8, 0.1], [0.9, 0.8, 0.1]])
    positive = torch.tensor([[False, True, True], [True, False, False], [False, False, True]])
    assert recall_among(similarity, positive, (1, 2, 3)) == pytest.approx({1: 1 / 3, 2: 2 / 3, 3: 1.0})


def test_equal_candidates_share_their_places():
    flat = torch.zeros(2, 4)
    positive = torch.tensor([[True, False, False, False], [True, True, False, False]])
    # the first right one is equally likely to be at each of 4 places; of the second, at each of 3, as one comes for both
    assert recall_among(flat, positive, (1,))[1] == pytest.approx((1 / 4 + 1 / 3) / 2)


def test_chance_is_what_random_orders_give():
    positive = torch.rand(40, 12, generator=torch.Generator().manual_seed(0)) < 0.2
    positive[:, 3] = True
    for rank in (1, 5):
        drawn = [
            recall_among(torch.rand(40, 12, generator=torch.Generator().manual_seed(seed)), positive, (rank,))[rank]
            for seed in range(300)
        ]
        assert chance_of_recall(positive, rank) == pytest.approx(sum(drawn) / len(drawn), abs=0.02)


def test_a_query_without_a_right_candidate_is_refused():
    with pytest.raises(ValueError, match="needs a candidate that is right"):
        recall_among(torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.bool))


def test_retrieval_counts_equal_captions_as_right_both_ways():
    similarity = torch.tensor([[0.1, 0.2, 0.9], [0.8, 0.1, 0.2], [0.3, 0.7, 0.2]])
    alone = retrieval_metrics(similarity, torch.tensor([0, 1, 2]))
    assert alone["R@1"] == 0 and alone["chance"] == pytest.approx(1 / 3)
    together = retrieval_metrics(similarity, torch.tensor([7, 1, 7]))
    assert together["text_to_image_R@1"] == pytest.approx(1 / 3)  # the first text finds the third picture
    assert together["image_to_text_R@1"] == pytest.approx(1 / 3)
    assert together["text_to_image_R@5"] == 1


def test_bleu_is_that_of_sacrebleu_over_several_references():
    # n-grams of the text found in a reference: 5/6, 3/5, 1/4, 0/3, of which the last is smoothed to 1/2 of 1/3
    figures = caption_metrics(["the cat sat on the mat"], [["the cat is on the mat"]])
    assert figures["bleu"] == pytest.approx((5 / 6 * 3 / 5 * 1 / 4 * 1 / 6) ** 0.25, abs=1e-4)
    assert figures["exact"] == 0
    several = caption_metrics(["a b c d e", "f g h i"], [["x", "a b c d e"], ["f g h i"]])
    assert several["bleu"] == pytest.approx(1) and several["exact"] == 1


def test_rouge_takes_the_best_reference():
    figures = caption_metrics(["a red cat"], [["a red dog", "a blue bird sings"]])
    assert figures["rouge1"] == pytest.approx(2 / 3) and figures["rouge2"] == pytest.approx(1 / 2)
    # longest common subsequence: "a red", 2 of 3 words on both sides
    assert figures["rougeL"] == pytest.approx(2 / 3)


def test_vqa_accuracy_follows_the_share_of_people():
    ten = ["red"] * 7 + ["pink"] * 2 + ["rose"]
    assert vqa_accuracy(["red", "pink", "blue"], [ten, ten, ten]) == pytest.approx((1 + 0.6 + 0) / 3)
    assert vqa_accuracy(["yes", "no"], [["yes"], ["yes"]]) == 0.5


@pytest.mark.parametrize("words", ["Red", "t-shirt", "3.5", "don't know", "Is it (red), or not?", '1/2 - "no"'])
def test_what_a_tokenizer_of_words_writes_back_is_right(words):
    from omnilatent.training.finetuning import learn_words

    tokenizer = learn_words([words])
    written = tokenizer.decode(tokenizer(words)["input_ids"])
    assert vqa_accuracy([written], [[words]]) == 1
    assert vqa_accuracy([written], [[words + "s"]]) == 0
    text = f"{words} as one of many words"
    tokenizer = learn_words([text])
    figures = caption_metrics([tokenizer.decode(tokenizer(text)["input_ids"])], [[text]])
    assert figures["exact"] == 1 and figures["bleu"] == pytest.approx(1)


@pytest.mark.parametrize("metric", [caption_metrics, vqa_accuracy])
def test_numbers_that_differ_are_refused(metric):
    with pytest.raises(ValueError, match="Expected"):
        metric(["a", "b"], [["a"]])


def test_word_tokenizer_gives_back_its_texts_in_any_order():
    from omnilatent.training.finetuning import learn_words

    texts = ["is the circle left of the square?", "two red crosses", "the digit 7 in blue, or not."]
    shuffled = random.Random(0).sample(texts, 3)
    first, second = learn_words(texts), learn_words(shuffled)
    assert first.get_vocab() == second.get_vocab()
    assert [first.decode(first(text)["input_ids"]) for text in texts] == texts
    assert (first.pad_token_id, first.bos_token_id, first.eos_token_id) == (0, 1, 2)
