"""Names of saved models: a folder, or else a repository on the Hub."""

import os
from argparse import Namespace
from collections.abc import Container
from pathlib import Path

from huggingface_hub.errors import GatedRepoError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id
from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, AutoConfig
from transformers.utils import CONFIG_NAME, cached_file, find_adapter_config_file


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


def check_whole(name_or_path: str | Path):
    """
    Refuse to train an adapter further: each checkpoint would hold it alone, without the head of the new labels and
    their names, and could not be loaded again as the model that is best.

    Raises:
        ValueError: for a saved adapter of peft.
    """
    if find_adapter_config_file(str(name_or_path)) is not None:
        raise ValueError(
            f"{name_or_path} is an adapter of peft, and training goes on from whole models: merge it into its model by "
            "`merge_and_unload()`, save that with its processor by `save_pretrained`, and name the new folder."
        )


def refuse_sizes(options: Namespace, *names: str, model: str = "model"):
    """
    Args:
        options: Of a command.
        names: Options that shape a new model; `None` where not given.
        model: The option that names a saved one.

    Raises:
        ValueError: for options that a saved model would ignore.
    """
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) is not None]
    if given:
        raise ValueError(f"{', '.join(given)} shape a new model, and --{model.replace('_', '-')} names a saved one.")
