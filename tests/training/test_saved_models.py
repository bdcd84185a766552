"""What is said of the name of a model that is nowhere."""

from unittest.mock import Mock

import pytest
from huggingface_hub.errors import GatedRepoError, RemoteEntryNotFoundError, RepositoryNotFoundError

from omnilatent.training.deployment.loading import load_model
from omnilatent.training.saved_models import check_saved


@pytest.fixture
def hub(monkeypatch):
    """Called with an error: what the Hub answers to any request."""

    def answer(kind):
        asked = Mock(side_effect=kind("told by the Hub", response=Mock()))
        monkeypatch.setattr("transformers.utils.hub.hf_hub_download", asked)
        return asked

    return answer


@pytest.mark.parametrize("name", ["./runs/model", "/runs/model", "runs/model/best", "~/model", "runs model"])
def test_what_can_be_no_repository_is_not_looked_for_on_the_hub(name, hub):
    asked = hub(RepositoryNotFoundError)
    with pytest.raises(FileNotFoundError, match=f"no folder '{name}', and no repository on the Hub can be called so"):
        check_saved(name)
    asked.assert_not_called()


def test_a_name_of_nothing_is_neither_a_folder_nor_a_repository(hub):
    hub(RepositoryNotFoundError)
    with pytest.raises(FileNotFoundError, match="neither a folder 'runs/my_modl' nor.* a repository"):
        load_model("runs/my_modl")


def test_without_network_the_missing_folder_is_named_as_well(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="neither a folder 'my_modl' nor.* Hub cannot be reached"):
        load_model("my_modl")


@pytest.mark.parametrize("answer", [GatedRepoError, RemoteEntryNotFoundError])
def test_a_repository_that_is_there_is_left_to_from_pretrained(answer, hub):
    hub(answer)
    check_saved("google/vit")


def test_a_folder_passes_and_a_file_is_refused(tmp_path):
    check_saved(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(NotADirectoryError, match="model.safetensors' is a file"):
        check_saved(tmp_path / "model.safetensors")
