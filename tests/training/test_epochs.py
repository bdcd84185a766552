"""The plain training loop."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from omnilatent import RelPosViTConfig, RelPosViTForImageClassification, VisionTransformer
from omnilatent.training import evaluate, train_epoch
from omnilatent.training.data import SyntheticImageDataset

CPU = torch.device("cpu")


def linear_batches():
    torch.manual_seed(0)
    images, labels = torch.randn(7, 3), torch.tensor([0, 1, 1, 0, 1, 0, 1])
    return [(images[:4], labels[:4]), (images[4:], labels[4:])]


def test_metrics_are_means_over_samples_and_not_over_batches():
    torch.manual_seed(0)
    model, batches = nn.Linear(3, 2), linear_batches()
    metrics = evaluate(model, batches, nn.CrossEntropyLoss(), CPU)
    images, labels = (torch.cat(parts) for parts in zip(*batches))
    logits = model(images)
    assert metrics["loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item())
    assert metrics["accuracy"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())


def test_an_epoch_takes_a_step_for_each_batch():
    torch.manual_seed(0)
    model, batches = nn.Linear(3, 2), linear_batches()
    expected = nn.Linear(3, 2)
    expected.load_state_dict(model.state_dict())
    train_epoch(model, batches, nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), lr=0.5), CPU, epoch=0)
    for images, labels in batches:
        loss = nn.functional.cross_entropy(expected(images), labels)
        for parameter, gradient in zip(expected.parameters(), torch.autograd.grad(loss, list(expected.parameters()))):
            parameter.data -= 0.5 * gradient
    torch.testing.assert_close(model.weight, expected.weight)


def test_evaluation_changes_neither_weights_nor_mode():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, linear_batches(), nn.CrossEntropyLoss(), CPU)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_relative_position_vit_learns_a_few_images_by_heart():
    torch.manual_seed(0)
    words = {"use_relative_position": True, "rpb_kwargs": {"window_size": (2, 2), "bias_type": "2d"}}
    model = VisionTransformer(8, 4, 3, num_classes=10, embed_dim=16, depth=1, num_heads=2, **words)
    loader = DataLoader(SyntheticImageDataset(num_samples=8, img_size=8, patch_size=4), batch_size=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    criterion = nn.CrossEntropyLoss()
    for epoch in range(25):
        train_epoch(model, loader, criterion, optimizer, CPU, epoch)
    assert evaluate(model, loader, criterion, CPU)["accuracy"] == 1.0


def test_transformers_models_and_their_batches_are_taken():
    model = RelPosViTForImageClassification(RelPosViTConfig.tiny(num_labels=3))
    batch = {"pixel_values": torch.randn(2, 3, 24, 32), "labels": torch.tensor([0, 2])}
    optimizer = torch.optim.AdamW(model.parameters())
    assert train_epoch(model, [batch], nn.CrossEntropyLoss(), optimizer, CPU, 0)["loss"] > 0


def test_a_distributed_sampler_learns_the_epoch():
    class Sampler:
        def set_epoch(self, epoch):
            self.epoch = epoch

    class Loader(list):
        sampler = Sampler()

    loader, model = Loader(linear_batches()), nn.Linear(3, 2)
    train_epoch(model, loader, nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), lr=0.1), CPU, epoch=6)
    assert loader.sampler.epoch == 6


def test_a_loss_of_nan_is_no_success():
    model = nn.Linear(3, 2)
    (images, labels), other = linear_batches()
    batches, criterion = [(images * torch.nan, torch.zeros_like(labels)), other], nn.CrossEntropyLoss()
    with pytest.raises(ValueError, match="loss of a batch is NaN"):
        evaluate(model, batches, criterion, CPU)
    with pytest.raises(ValueError, match="loss of a batch is NaN"):
        train_epoch(model, batches, criterion, torch.optim.SGD(model.parameters(), lr=0.1), CPU, epoch=0)


def test_no_batch_is_an_error():
    with pytest.raises(ValueError, match="no batch"):
        evaluate(nn.Linear(3, 2), [], nn.CrossEntropyLoss(), CPU)
