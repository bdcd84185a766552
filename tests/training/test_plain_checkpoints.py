"""Checkpoints of the plain training loop."""

import json
import pickle

import pytest
import torch
from safetensors import safe_open
from torch import nn

from omnilatent.training import InvalidCheckpointError, load_checkpoint, save_checkpoint


def trained(optimizer_class=torch.optim.AdamW, **words):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    optimizer = optimizer_class(model.parameters(), lr=0.01, **words)
    for _ in range(3):
        step(model, optimizer)
    return model, optimizer


def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.arange(12.0).view(4, 3)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize(
    ("optimizer_class", "words"),
    [
        (torch.optim.AdamW, {"betas": (0.8, 0.9)}),
        (torch.optim.SGD, {"momentum": 0.9}),
        (torch.optim.SGD, {}),
        (torch.optim.Adam, {"amsgrad": True}),
    ],
)
def test_training_goes_on_as_if_it_had_never_stopped(tmp_path, optimizer_class, words):
    model, optimizer = trained(optimizer_class, **words)
    save_checkpoint(model, optimizer, 3, {"loss": 0.25, "accuracy": 1.0}, tmp_path / "deep" / "er" / "checkpoint.pt")
    other, other_optimizer = trained(optimizer_class, **words)
    step(other, other_optimizer)
    found = load_checkpoint(other, other_optimizer, str(tmp_path / "deep" / "er" / "checkpoint.pt"))
    assert found == (3, {"loss": 0.25, "accuracy": 1.0})
    for pair in ((model, optimizer), (other, other_optimizer)):
        step(*pair)
    for (name, first), second in zip(model.state_dict().items(), other.state_dict().values()):
        assert torch.equal(first, second), name
    assert other_optimizer.param_groups[0].keys() == optimizer.param_groups[0].keys()


def test_the_file_is_safetensors_and_json(tmp_path):
    model, optimizer = trained()
    save_checkpoint(model, optimizer, 1, {"history": [1.0, 0.5], "best": torch.tensor(0.5)}, tmp_path / "checkpoint")
    with safe_open(tmp_path / "checkpoint", framework="pt") as file:
        torch.testing.assert_close(file.get_tensor("model.0.weight"), model[0].weight.detach())
        assert json.loads(file.metadata()["omnilatent_checkpoint"])["epoch"] == 1
    _, metrics = load_checkpoint(model, None, tmp_path / "checkpoint")
    assert metrics == {"history": [1.0, 0.5], "best": torch.tensor(0.5)}
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_tied_weights_stay_tied(tmp_path):
    def tied():
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    model, other = tied(), tied()
    save_checkpoint(model, None, 0, {}, tmp_path / "tied")
    load_checkpoint(other, None, tmp_path / "tied")
    assert other[1].weight is other[0].weight
    assert torch.equal(other[1].weight, model[1].weight)


def test_another_model_is_refused_and_left_as_it_was(tmp_path):
    model, optimizer = trained()
    save_checkpoint(model, optimizer, 1, {}, tmp_path / "checkpoint")
    other = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 4))
    before = other[0].weight.clone()
    with pytest.raises(InvalidCheckpointError, match=r"2.bias is \(2,\) there, \(4,\) here"):
        load_checkpoint(other, None, tmp_path / "checkpoint")
    assert torch.equal(other[0].weight, before)


def test_a_missing_or_another_optimizer_is_refused(tmp_path):
    model, optimizer = trained()
    save_checkpoint(model, None, 1, {}, tmp_path / "without")
    with pytest.raises(InvalidCheckpointError, match="without an optimizer"):
        load_checkpoint(model, optimizer, tmp_path / "without")
    save_checkpoint(model, torch.optim.AdamW(model[0].parameters()), 1, {}, tmp_path / "other")
    with pytest.raises(InvalidCheckpointError, match="another optimizer"):
        load_checkpoint(model, optimizer, tmp_path / "other")


def test_another_kind_of_optimizer_is_refused_and_nothing_is_loaded(tmp_path):
    save_checkpoint(*trained(), 1, {}, tmp_path / "checkpoint")
    model, optimizer = trained(torch.optim.SGD, momentum=0.9)
    before = model[0].weight.clone()
    with pytest.raises(InvalidCheckpointError, match="AdamW there, SGD here"):
        load_checkpoint(model, optimizer, tmp_path / "checkpoint")
    assert torch.equal(model[0].weight, before)
    step(model, optimizer)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    model, optimizer = trained()
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_checkpoint(model, optimizer, tmp_path / "nothing")
    (tmp_path / "pickled").write_bytes(pickle.dumps({"model": 1}))
    with pytest.raises(InvalidCheckpointError, match="no checkpoint of"):
        load_checkpoint(model, optimizer, tmp_path / "pickled")


def test_metrics_that_json_cannot_hold_are_refused(tmp_path):
    with pytest.raises(ValueError, match="metrics.fn"):
        save_checkpoint(nn.Linear(1, 1), None, 0, {"fn": print}, tmp_path / "checkpoint")
    assert not list(tmp_path.iterdir())
