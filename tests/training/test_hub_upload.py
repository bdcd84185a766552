"""What is told of a Hub that takes no model, before training and after it."""

from types import SimpleNamespace

import pytest

from omnilatent.training import cli
from omnilatent.training.hub_upload import UploadError, check_hub, upload

COMMANDS = {
    "train": ["--video-dir", "videos"],
    "curriculum": ["--video-dir", "videos"],
    "align": ["--video-dir", "videos"],
    "classify": ["--data-dir", "images"],
    "finetune": ["--task", "vqa", "--train-data", "a.json", "--val-data", "b.json"],
}


class Unreachable(Exception):
    """As the errors of the Hub's client, no OSError."""


@pytest.fixture
def unreachable(monkeypatch):
    def create_repo(repo, exist_ok):
        raise Unreachable("Name or service not known")

    monkeypatch.setattr("omnilatent.training.hub_upload.create_repo", create_repo)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unreachable_hub_is_told_before_training(command, unreachable, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert cli.main([command, *COMMANDS[command], "--push-to-hub", "me/shapes"]) == 1
    told = capfd.readouterr().err.splitlines()[-1]
    assert told.startswith(f"omnilatent {command}: error: --push-to-hub me/shapes") and "hf auth login" in told
    assert "Name or service not known" in told
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_uploads_nothing_asks_no_hub(unreachable, tmp_path):
    check_hub(None)
    upload(None, tmp_path, object())


def test_a_model_that_was_not_uploaded_can_be_found(tmp_path):
    def push_to_hub(repo):
        raise Unreachable("timed out")

    with pytest.raises(UploadError, match=f"not uploaded to me/shapes: timed out. It is in {tmp_path}; .*hf upload"):
        upload("me/shapes", tmp_path, SimpleNamespace(push_to_hub=push_to_hub))
