"""The repository that a command uploads its trained model to: looked for before training, filled after it."""

from pathlib import Path

from huggingface_hub import create_repo


class UploadError(OSError):
    """The Hub cannot be reached, or does not let this user write there."""


def check_hub(repo: str | None) -> None:
    """
    Make the repository, as Trainer does before it trains: what stands in the way is then known before anything is spent.

    Args:
        repo: Its name; `None`: nothing is to be uploaded.

    Raises:
        UploadError: for no network, no token, or a name that this user cannot have.
    """
    if repo is None:
        return
    try:
        create_repo(repo, exist_ok=True)
    except Exception as error:  # those of the network have many types
        raise UploadError(
            f"--push-to-hub {repo}: the Hub takes no model there ({error}). Sign in by `hf auth login`, or train without "
            "this option and upload the folder later."
        ) from error


def upload(repo: str | None, folder: Path, *parts) -> None:
    """
    Upload a trained model.

    Args:
        repo: As of `check_hub`.
        folder: That the model is in, for the message.
        parts: Whatever has `push_to_hub`: model and processor.

    Raises:
        UploadError: where that fails; it says where the model is.
    """
    if repo is None:
        return
    try:
        for part in parts:
            part.push_to_hub(repo)
    except Exception as error:  # as above
        raise UploadError(
            f"The model was not uploaded to {repo}: {error}. It is in {folder}; upload it by: hf upload {repo} {folder}"
        ) from error
