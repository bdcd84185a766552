"""Retrieval by a dual and by a cross encoder."""

import sys
from pathlib import Path

import pytest
import torch
from accelerate import debug_launcher
from torch.nn.parallel import DistributedDataParallel

from omnilatent import MultiModalForRetrieval
from omnilatent.modeling_omni.fusion.fused_tokens import FusedTokens
from omnilatent.modeling_omni.losses import matching_loss

sys.path.append(str(Path(__file__).parent))
from conftest import make_config, make_inputs, randomise  # noqa: E402


def make_model(**settings):
    torch.manual_seed(0)
    return randomise(MultiModalForRetrieval(make_config(**settings)))


@pytest.mark.parametrize("settings", [{}, {"contrastive_loss": "sigmoid"}, {"scoring": "cross"}])
def test_loss_trains_every_parameter(settings):
    model = make_model(**settings)
    output = model(**make_inputs(batch=3))
    output.loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert (output.matching_loss is not None) == ("scoring" in settings)


def test_scores_are_scaled_cosines_of_unit_embeddings():
    model = make_model()
    output = model(**make_inputs(batch=3))
    torch.testing.assert_close(output.text_embeds.norm(dim=1), torch.ones(3))
    expected = model.logit_scale.exp() * output.image_embeds @ output.text_embeds.T
    torch.testing.assert_close(output.logits_per_image, expected)
    assert torch.equal(output.logits_per_text, output.logits_per_image.T)


@pytest.mark.parametrize("second", ["audio", "video"])
def test_scores_are_named_after_the_second_modality(second):
    output = MultiModalForRetrieval(make_config(second))(**make_inputs(second))
    assert output[f"logits_per_{second}"].shape == (2, 2) and output.logits_per_image is None


def test_one_side_alone_is_embedded():
    model, inputs = make_model(), make_inputs()
    both = model(**inputs)
    alone = model(pixel_values=inputs["pixel_values"])
    torch.testing.assert_close(alone.image_embeds, both.image_embeds)
    assert alone.loss is None and alone.logits_per_image is None


@pytest.mark.parametrize("scoring", ["dual", "cross"])
def test_several_texts_of_one_picture_are_compared(scoring):
    """As the zero-shot pipeline calls it."""
    model, inputs = make_model(scoring=scoring), make_inputs(batch=3)
    output = model(input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"][:1])
    assert output.logits_per_image.shape == (1, 3) and output.loss is None


def test_duplicate_captions_are_no_negatives():
    model, inputs = make_model(), make_inputs(batch=3)
    inputs["input_ids"][1] = inputs["input_ids"][0]
    same = torch.tensor([4, 4, 5])
    log_probability = model(**inputs).logits_per_image.log_softmax(dim=1)
    by_image = -(log_probability[:2, :2].mean(dim=1).sum() + log_probability[2, 2]) / 3
    by_text = model(**inputs).logits_per_text.log_softmax(dim=1)
    by_text = -(by_text[:2, :2].mean(dim=1).sum() + by_text[2, 2]) / 3
    torch.testing.assert_close(model(**inputs, sample_ids=same).loss, (by_image + by_text) / 2)


def test_the_cross_encoder_scores_every_pair_as_it_scores_it_alone():
    model, inputs = make_model(scoring="cross"), make_inputs(batch=3)
    scores = model(**inputs, return_loss=False).logits_per_text
    for text in range(3):
        for image in range(3):
            pair = {
                "input_ids": inputs["input_ids"][text : text + 1],
                "pixel_values": inputs["pixel_values"][image : image + 1],
            }
            alone = model(**pair, return_loss=False).logits_per_text
            torch.testing.assert_close(alone[0, 0], scores[text, image], atol=1e-5, rtol=1e-4)
    assert scores.std() > 1e-3


def test_reranking_needs_a_cross_encoder():
    tokens = FusedTokens(torch.ones(1, 2, 24), None)
    rows = torch.zeros(1, dtype=torch.long)
    with pytest.raises(ValueError, match="scoring='cross'"):
        make_model().rerank(tokens, tokens, rows, rows)


# --- hard negatives ---------------------------------------------------------------------------------------------------


def test_the_hardest_false_partner_is_taken():
    """Row 0's picture is most like text 2, but that is the same caption; of the others text 1 is the nearest."""
    texts = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.8, 0.6], [1.0, 0.1], [-1.0, 0.0]]), dim=1)
    images = torch.nn.functional.normalize(torch.tensor([[1.0, 0.1], [0.0, 1.0], [1.0, 0.0], [-1.0, 0.2]]), dim=1)
    ids = torch.tensor([7, 8, 7, 9])
    seen = []

    def match(first, second):
        seen.extend(zip(first.tokens[:, 0, 0].tolist(), second.tokens[:, 0, 0].tolist()))
        return torch.zeros(len(first.tokens))

    numbers = FusedTokens(torch.arange(4.0)[:, None, None], None)
    loss = matching_loss(match, numbers, numbers, texts, images, ids)
    assert seen[:4] == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert seen[4:8] == [(0, 1), (1, 0), (2, 1), (3, 1)]  # each text with the false picture most like it
    assert seen[8:] == [(1, 0), (2, 1), (1, 2), (1, 3)]  # each picture with the false text most like it
    torch.testing.assert_close(loss, torch.tensor(2.0).log())


def test_a_batch_without_false_partners_counts_its_true_pairs_alone():
    same = FusedTokens(torch.ones(2, 1, 1), None)
    embeds = torch.eye(2)
    loss = matching_loss(
        lambda a, b: torch.full((len(a.tokens),), 9.0), same, same, embeds, embeds, torch.tensor([3, 3])
    )
    assert loss < 1e-3


# --- several processes ------------------------------------------------------------------------------------------------

CASES = ({}, {"contrastive_loss": "sigmoid"}, {"scoring": "cross"})


def one_process():
    torch.set_num_threads(1)
    rank = torch.distributed.get_rank()
    for settings in CASES:
        whole = make_inputs(batch=6)
        ids = torch.tensor([1, 2, 3, 1, 4, 5])
        length = (5, 7)[rank]  # the first process has shorter texts
        mask = torch.ones(6, 7, dtype=torch.long)
        mask[:3, 5:] = 0
        expected = make_model(**settings)
        one = expected(**whole, attention_mask=mask, sample_ids=ids)
        one.loss.backward()
        model = make_model(**settings).train()
        own = slice(3 * rank, 3 * rank + 3)
        part = {name: values[own] for name, values in whole.items()} | {"attention_mask": mask[own]}
        part["input_ids"], part["attention_mask"] = part["input_ids"][:, :length], part["attention_mask"][:, :length]
        parallel = DistributedDataParallel(model)  # has to live until the backward pass
        output = parallel(**part, sample_ids=ids[own])
        output.loss.backward()
        torch.testing.assert_close(output.loss, one.loss, atol=1e-5, rtol=1e-5)
        for (name, parameter), other in zip(model.named_parameters(), expected.parameters()):
            torch.testing.assert_close(parameter.grad, other.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_two_processes_have_the_loss_and_the_gradients_of_one(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    debug_launcher(one_process, num_processes=2)
