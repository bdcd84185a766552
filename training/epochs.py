"""A plain training loop for a classifier, one epoch at a time."""

import math
from collections.abc import Iterable

import torch
from torch import nn


def train_epoch(
    model: nn.Module,
    dataloader: Iterable,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: torch.device | str,
    epoch: int,
) -> dict[str, float]:
    """Train for one epoch.

    Args:
        model: maps images to logits (B, classes), or to an output that has `logits`.
        dataloader: batches (images, labels), or dicts of `pixel_values` and `labels`.
        criterion: mean loss of logits and labels.
        optimizer: of the model's parameters.
        device: where to train; the model is moved there.
        epoch: its number; a sampler with `set_epoch` shuffles by it.

    Returns:
        `loss` and `accuracy`, means over the samples, as the model was when it saw them.

    Raises:
        ValueError: when the loader has no batch, or, after the epoch, when the loss of one was NaN.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent import VisionTransformer
    >>> from omnilatent.training import train_epoch
    >>> from omnilatent.training.data import SyntheticImageDataset
    >>> from torch.utils.data import DataLoader

    >>> model = VisionTransformer(32, 16, 3, num_classes=10, embed_dim=32, depth=1, num_heads=4)
    >>> loader = DataLoader(SyntheticImageDataset(num_samples=8, img_size=32, patch_size=16), batch_size=4)
    >>> optimizer = torch.optim.AdamW(model.parameters())
    >>> metrics = train_epoch(model, loader, torch.nn.CrossEntropyLoss(), optimizer, torch.device("cpu"), epoch=0)
    >>> sorted(metrics)
    ['accuracy', 'loss']
    ```
    """
    sampler = getattr(dataloader, "sampler", None)
    if hasattr(sampler, "set_epoch"):
        sampler.set_epoch(epoch)
    model.to(device).train()
    return _run(model, dataloader, criterion, device, optimizer)


def evaluate(
    model: nn.Module, dataloader: Iterable, criterion: nn.Module, device: torch.device | str
) -> dict[str, float]:
    """Mean `loss` and `accuracy` over the samples; arguments and errors are those of [`train_epoch`].

    The model is left in the mode, training or evaluation, that it was in.
    """
    was_training = model.training
    model.to(device).eval()
    try:
        with torch.no_grad():
            return _run(model, dataloader, criterion, device)
    finally:
        model.train(was_training)


def _run(model, dataloader, criterion, device, optimizer=None):
    samples, loss_sum, correct = 0, 0.0, 0
    for batch in dataloader:
        images, labels = (batch["pixel_values"], batch["labels"]) if isinstance(batch, dict) else batch
        images, labels = images.to(device), labels.to(device)
        output = model(images)
        logits = output if isinstance(output, torch.Tensor) else output.logits
        loss = criterion(logits, labels)
        if optimizer is not None:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        samples += len(labels)
        # sums stay on the device: reading them at each step would make it wait
        loss_sum = loss_sum + loss.detach().double() * len(labels)
        correct = correct + (logits.detach().argmax(dim=-1) == labels).sum()
    if samples == 0:
        raise ValueError("The data loader has no batch.")
    loss = float(loss_sum) / samples
    if math.isnan(loss):  # the accuracy would count the first class as the model's answer
        raise ValueError("The loss of a batch is NaN: look for NaN in images and weights, and at the learning rate.")
    return {"loss": loss, "accuracy": float(correct) / samples}
