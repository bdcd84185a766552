"""Names of saved models: a folder, or else a repository on the Hub."""

import os
from collections.abc import Container
from pathlib import Path

from huggingface_hub.errors import GatedRepoError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id
from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, AutoConfig
from transformers.utils import CONFIG_NAME, cached_file


def check_saved(name_or_path: str | Path, file: str = CONFIG_NAME):
    """
    Look before loading, so that a mistyped folder is not told as trouble with the network.

    Args:
        name_or_path: As for `from_pretrained`.
        file: One of the repository, by which a downloaded one is found.

    Raises:
        FileNotFoundError: where there is neither such a folder nor such a repository.
        NotADirectoryError: for a file.
    """
    name = str(name_or_path)
    if os.path.isdir(name):
        return
    if os.path.exists(name):
        raise NotADirectoryError(f"{name!r} is a file, expected the folder of a saved model.")
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise FileNotFoundError(
            f"There is no folder {name!r}, and no repository on the Hub can be called so."
        ) from None
    try:
        cached_file(name, file)
    except OSError as error:
        reason = error.__cause__  # transformers' own error is of no kind
        if isinstance(reason, RepositoryNotFoundError) and not isinstance(reason, GatedRepoError):
            raise FileNotFoundError(
                f"There is neither a folder {name!r} nor, for this user, a repository of that name on the Hub."
            ) from error
        if isinstance(reason, LocalEntryNotFoundError):
            raise FileNotFoundError(
                f"There is neither a folder {name!r} nor a downloaded repository of that name, and the Hub cannot be "
                "reached to look for one."
            ) from error
        # the rest `from_pretrained` tells itself


def check_kind(name_or_path: str | Path, configs: Container[type], kind: str):
    """
    Args:
        name_or_path: As for `from_pretrained`.
        configs: Classes of the configs of the models that will do.
        kind: What messages call such a model.

    Raises:
        ValueError: for a model of another kind.
        FileNotFoundError, NotADirectoryError: as `check_saved`.
    """
    check_saved(name_or_path)
    if Path(name_or_path).is_dir() and not Path(name_or_path, CONFIG_NAME).is_file():
        return  # an adapter, which names its model; the rest `from_pretrained` refuses itself
    config = AutoConfig.from_pretrained(name_or_path)
    if type(config) not in configs:
        raise ValueError(f"{name_or_path} is no {kind}: it holds {', '.join(config.architectures or ['a model'])}.")


def check_image_classifier(name_or_path: str | Path):
    """`check_kind` for what `AutoModelForImageClassification` loads."""
    check_kind(name_or_path, MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, "classifier of images")
