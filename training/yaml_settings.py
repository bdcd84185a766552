"""Settings in YAML files."""

import os
from pathlib import Path

import yaml


def load_config(config_path: str | os.PathLike) -> dict:
    """Read settings from a YAML file. Only plain values are read: a file cannot make Python objects.

    Raises:
        FileNotFoundError: without such a file.
        ValueError: for a file that is no YAML, or holds something other than named settings.
    """
    text = Path(config_path).read_text(encoding="utf-8")
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{config_path} is no YAML of plain values: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{config_path} holds a {type(config).__name__}, expected named settings.")
    return config


def save_config(config: dict, save_path: str | os.PathLike) -> None:
    """Write settings to a YAML file, in their order; folders are made. Tuples are read back as lists.

    Raises:
        ValueError: for anything but a dict of plain values.

    Example:

    ```python
    >>> from omnilatent.training import load_config, save_config

    >>> save_config({"model": {"embed_dim": 96, "window_size": [7, 7]}, "lr": 0.001}, "runs/settings.yaml")
    >>> load_config("runs/settings.yaml")
    {'model': {'embed_dim': 96, 'window_size': [7, 7]}, 'lr': 0.001}
    ```
    """
    if not isinstance(config, dict):
        raise ValueError(f"Settings must be a dict, got a {type(config).__name__}.")
    try:
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    except yaml.YAMLError as error:
        raise ValueError(f"YAML has no plain form of these settings: {' '.join(str(error).split())}") from None
    path = Path(save_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
