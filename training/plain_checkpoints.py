"""Checkpoints of a plain training loop: one safetensors file.

Tensors of model and optimizer are its tensors; all the rest is JSON in its header. Nothing is pickled.
"""

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from .checkpoints import InvalidCheckpointError

HEADER = "omnilatent_checkpoint"


def save_checkpoint(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    epoch: int,
    metrics: dict,
    save_path: str | os.PathLike,
) -> None:
    """Save model, optimizer, epoch and metrics. The file appears in one piece; folders are made.

    Args:
        optimizer: `None`: leave it out.
        metrics: numbers, words and tensors, in dicts and lists.
        save_path: the file.

    Raises:
        ValueError: for metrics of other types.
    """
    path = Path(save_path)
    tensors = {}
    state = {"model": model.state_dict(), "epoch": epoch, "metrics": metrics}
    if optimizer is not None:
        state["optimizer"] = optimizer.state_dict()
        state["optimizer_class"] = type(optimizer).__name__
    header = {HEADER: json.dumps({name: _pack(value, tensors, name) for name, value in state.items()})}
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.part")
    save_file(tensors, draft, metadata=header)
    os.replace(draft, path)


def load_checkpoint(
    model: nn.Module, optimizer: torch.optim.Optimizer | None, checkpoint_path: str | os.PathLike
) -> tuple[int, dict]:
    """Load what `save_checkpoint` wrote into model and optimizer.

    Args:
        optimizer: `None`: load the model only.

    Returns:
        The epoch and the metrics that were saved.

    Raises:
        FileNotFoundError: without such a file.
        InvalidCheckpointError: a ValueError, for another file, another model, no optimizer in it or one of another
            kind. Nothing is loaded then.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent.training import load_checkpoint, save_checkpoint

    >>> model = torch.nn.Linear(3, 2)
    >>> optimizer = torch.optim.AdamW(model.parameters())
    >>> save_checkpoint(model, optimizer, 4, {"loss": 0.5}, "runs/epoch4.safetensors")
    >>> load_checkpoint(model, optimizer, "runs/epoch4.safetensors")
    (4, {'loss': 0.5})
    ```
    """
    path = Path(checkpoint_path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint at {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads((file.metadata() or {})[HEADER])
            state = {name: _unpack(value, file) for name, value in state.items()}
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise InvalidCheckpointError(f"{path} is no checkpoint of `save_checkpoint`: {error!r}.") from None
    saved, wanted = state["model"], model.state_dict()
    for name in sorted(saved.keys() | wanted.keys()):
        shapes = [tuple(values[name].shape) if name in values else "missing" for values in (saved, wanted)]
        if shapes[0] != shapes[1]:
            raise InvalidCheckpointError(f"{path} holds another model: {name} is {shapes[0]} there, {shapes[1]} here.")
    if optimizer is not None:
        if "optimizer" not in state:
            raise InvalidCheckpointError(f"{path} was saved without an optimizer.")
        kinds = state.get("optimizer_class"), type(optimizer).__name__
        if kinds[0] != kinds[1]:
            raise InvalidCheckpointError(f"{path} holds another optimizer: {kinds[0]} there, {kinds[1]} here.")
        try:
            optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise InvalidCheckpointError(f"{path} holds another optimizer: {error}") from None
    model.load_state_dict(saved)
    return state["epoch"], state["metrics"]


def _pack(value, tensors, name):
    """What JSON can hold, with the tensors in `tensors` and their names in their places."""
    if isinstance(value, torch.Tensor):
        # a copy where memory is shared, which safetensors refuses
        shared = any(
            value.untyped_storage().data_ptr() == other.untyped_storage().data_ptr() for other in tensors.values()
        )
        value = value.detach().cpu()
        tensors[name] = value.clone().contiguous() if shared else value.contiguous()
        return {"tensor": name}
    if isinstance(value, dict):  # as pairs, for JSON makes words of numbers that are keys
        return {"dict": [[key, _pack(item, tensors, f"{name}.{key}")] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_pack(item, tensors, f"{name}.{i}") for i, item in enumerate(value)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f"`{name}` is a {type(value).__name__}, which a checkpoint cannot hold.")


def _unpack(value, file):
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return file.get_tensor(content)
    if kind == "dict":
        return {key: _unpack(item, file) for key, item in content}
    items = [_unpack(item, file) for item in content]
    return tuple(items) if kind == "tuple" else items
