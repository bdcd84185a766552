"""Labels and answers."""

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForVisualQuestionAnswering

from omnilatent import MultiModalForClassification, MultiModalForVisualQuestionAnswering
from omnilatent.modeling_omni.losses import classification_loss

from .conftest import make_config, make_inputs, randomise

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, -2.0], [1.0, 1.0, 1.0]])


def test_one_label():
    labels = torch.tensor([0, -100, 2])
    torch.testing.assert_close(classification_loss(LOGITS, labels), F.cross_entropy(LOGITS, labels))
    assert classification_loss(LOGITS, torch.tensor([-100] * 3)) == 0


def test_several_labels():
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    expected = F.binary_cross_entropy_with_logits(LOGITS, labels)
    torch.testing.assert_close(classification_loss(LOGITS, labels), expected)


@pytest.mark.parametrize("labels", [torch.tensor([1, 0, 2]), torch.tensor([1.0, 0.0, 2.0])])
def test_a_number(labels):
    loss = classification_loss(LOGITS[:, :1], labels)
    torch.testing.assert_close(loss, ((LOGITS[:, 0] - labels) ** 2).mean())


def test_problem_type_has_the_last_word():
    labels = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    expected = F.binary_cross_entropy_with_logits(LOGITS, labels.float())
    torch.testing.assert_close(classification_loss(LOGITS, labels, "multi_label_classification"), expected)


@pytest.mark.parametrize("labels", [torch.tensor([0, 1]), torch.ones(3, 2), torch.ones(3)])
def test_labels_that_do_not_fit_are_refused(labels):
    with pytest.raises(ValueError, match="`labels` must have the shape"):
        classification_loss(LOGITS, labels)


def test_unknown_answers_do_not_count():
    torch.manual_seed(0)
    model, inputs = randomise(MultiModalForVisualQuestionAnswering(make_config())), make_inputs()
    whole = model(**inputs, labels=torch.tensor([3, -100])).loss
    alone = model(**{name: values[:1] for name, values in inputs.items()}, labels=torch.tensor([3])).loss
    torch.testing.assert_close(whole, alone)


def test_soft_targets_are_met_where_answers_are_as_likely_as_they_say():
    model, inputs = MultiModalForVisualQuestionAnswering(make_config()).eval(), make_inputs()
    targets = torch.tensor([[0.9, 0.3, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.6, 0.0]])
    output = model(**inputs, labels=targets)
    expected = F.binary_cross_entropy(output.logits.sigmoid(), targets, reduction="sum") / 2
    torch.testing.assert_close(output.loss, expected)


def test_answers_are_saved_with_the_model(tmp_path):
    names = {0: "red", 1: "a dog"}
    model = MultiModalForVisualQuestionAnswering(
        make_config(num_labels=2, id2label=names, label2id={name: index for index, name in names.items()})
    )
    model.save_pretrained(tmp_path)
    again = AutoModelForVisualQuestionAnswering.from_pretrained(tmp_path)
    assert again.config.id2label == names and again(**make_inputs()).logits.shape == (2, 2)


def test_a_question_alone_is_classified():
    model, inputs = MultiModalForClassification(make_config()), make_inputs()
    assert model(input_ids=inputs["input_ids"]).logits.shape == (2, 5)
