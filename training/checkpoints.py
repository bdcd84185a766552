"""Checkpoints that are whole or refused: a manifest with the hash of every file is written last."""

import hashlib
import json
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel
from transformers.trainer_utils import sort_checkpoints

MANIFEST = "manifest.json"


class InvalidCheckpointError(ValueError):
    """A checkpoint that is not whole, or belongs to another model."""


def write_manifest(folder: str | os.PathLike) -> None:
    """Note size and SHA-256 of every file below a folder; it appears in one piece, after everything else."""
    folder = Path(folder)
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": _hash(folder / name)} for name in _files(folder)
    }
    draft = folder / f"{MANIFEST}.part"
    draft.write_text(json.dumps({"files": files}, indent=1))
    os.replace(draft, folder / MANIFEST)


def check_manifest(folder: str | os.PathLike) -> None:
    """
    Raises:
        InvalidCheckpointError: unless every file of the manifest is there as it was written.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InvalidCheckpointError(f"There is no checkpoint at {folder}.")
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
    except FileNotFoundError:
        raise InvalidCheckpointError(f"{folder} has no {MANIFEST}: it was not saved to the end.") from None
    except (ValueError, KeyError, TypeError):
        raise InvalidCheckpointError(f"{folder / MANIFEST} cannot be read.") from None
    for name, wanted in files.items():
        path = folder / name
        if not path.is_file():
            raise InvalidCheckpointError(f"{path} is missing.")
        size = path.stat().st_size
        if size != wanted["bytes"]:
            raise InvalidCheckpointError(f"{path} has {size} bytes, {wanted['bytes']} were saved.")
        if _hash(path) != wanted["sha256"]:
            raise InvalidCheckpointError(f"{path} is not what was saved: its SHA-256 differs.")


def check_model(folder: str | os.PathLike, model) -> None:
    """
    Raises:
        InvalidCheckpointError: for the checkpoint of another model type, or with tensors that the model lacks, needs,
            or has in another shape. Adapters and sharded models are left to those who load them.
    """
    folder = Path(folder)
    config = folder / "config.json"
    if not isinstance(model, PreTrainedModel) or not config.is_file():
        return
    model_type = json.loads(config.read_text()).get("model_type")
    if model_type != model.config.model_type:
        raise InvalidCheckpointError(
            f"{folder} holds a model of type {model_type!r}, expected {model.config.model_type!r}."
        )
    weights = folder / "model.safetensors"
    if not weights.is_file():
        return
    try:
        with safe_open(weights, framework="pt") as file:
            saved = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except SafetensorError as error:
        raise InvalidCheckpointError(f"{weights} cannot be read: {error}") from None
    wanted = {name: tuple(values.shape) for name, values in model.state_dict().items()}
    tied = set(model.all_tied_weights_keys)
    for name in sorted(saved.keys() | wanted.keys()):
        if saved.get(name) != wanted.get(name) and not (name in tied and name not in saved):
            raise InvalidCheckpointError(
                f"{folder} belongs to another model: {name} is {saved.get(name, 'missing')} there, "
                f"{wanted.get(name, 'missing')} here."
            )


def newest_valid(output_dir: str | os.PathLike) -> tuple[str | None, list[str]]:
    """The checkpoint with the highest step whose manifest holds, and what is wrong with those above it."""
    broken = []
    for folder in reversed(sort_checkpoints(str(output_dir))):
        try:
            check_manifest(folder)
        except InvalidCheckpointError as error:
            broken.append(str(error))
        else:
            return folder, broken
    return None, broken


def _files(folder):
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST
    )


def _hash(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
