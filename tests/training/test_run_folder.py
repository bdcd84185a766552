"""The folder of a training run: what is refused, and what its log holds."""

import logging

import pytest

from omnilatent.training import cli
from omnilatent.training.run_folder import LOG_FILE, check_unused, run_folder

COMMANDS = {
    "train": ["--video-dir", "videos", "--save-dir"],
    "curriculum": ["--video-dir", "videos", "--save-dir"],
    "align": ["--video-dir", "videos", "--save-dir"],
    "classify": ["--data-dir", "images", "--save-dir"],
    "finetune": ["--task", "vqa", "--train-data", "a.json", "--val-data", "b.json", "--output-dir"],
}


@pytest.fixture
def used(tmp_path):
    """The folder of a run with a checkpoint and a model."""
    (tmp_path / "used" / "checkpoint-4").mkdir(parents=True)
    (tmp_path / "used" / "config.json").write_text("{}")
    return tmp_path / "used"


@pytest.mark.parametrize("command", COMMANDS)
def test_folder_of_an_earlier_run_is_refused_by_every_command(command, used, capfd):
    assert cli.main([command, *COMMANDS[command], str(used)]) == 1
    told = capfd.readouterr().err.splitlines()[-1]
    assert told.startswith(f"omnilatent {command}: error: '{used}' holds the checkpoints of an earlier run")
    assert "--resume auto" in told
    assert sorted(path.name for path in used.iterdir()) == ["checkpoint-4", "config.json"]


def test_run_goes_on_in_its_own_folder(used):
    check_unused(used, "auto")
    check_unused(used, str(used / "checkpoint-4"))
    with pytest.raises(ValueError, match="earlier run"):
        check_unused(used, str(used.parent / "other" / "checkpoint-4"))


def test_new_run_finds_nothing_in_the_way(tmp_path):
    (tmp_path / "small_world").mkdir()  # left by a run that was stopped early
    check_unused(tmp_path)
    check_unused(tmp_path / "new", "auto")


@pytest.mark.parametrize("resume", [None, "auto"])
def test_model_without_checkpoints_is_not_overwritten(tmp_path, resume):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds a model"):
        check_unused(tmp_path, resume)


def test_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file"):
        check_unused(tmp_path / "file")


def test_console_shows_what_matters_and_the_log_holds_all(tmp_path, capsys):
    logger = logging.getLogger("omnilatent.training.data")
    for number in range(2):  # the second appends
        with run_folder(tmp_path / "run"):
            logger.info("said %d", number)
            logger.debug("detail %d", number)
    logger.error("after the run")
    assert capsys.readouterr().err == "said 0\nsaid 1\n"
    lines = [line.split(" ", 2)[2] for line in (tmp_path / "run" / LOG_FILE).read_text().splitlines()]
    assert lines == ["said 0", "detail 0", "said 1", "detail 1"]


def test_processes_write_under_their_ranks(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        with run_folder(tmp_path):
            logging.getLogger("omnilatent.training.data").warning("Left out a.png")
    lines = [line.split(" ", 2)[2] for line in (tmp_path / LOG_FILE).read_text().splitlines()]
    assert lines == ["rank 0: Left out a.png", "rank 1: Left out a.png"]


def test_name_that_is_no_unicode_is_in_the_log(tmp_path, monkeypatch):
    monkeypatch.setattr(logging.getLogger("omnilatent"), "propagate", False)  # pytest cannot send it between processes
    with run_folder(tmp_path):
        logging.getLogger("omnilatent.training.data").warning("Left out %s", "caf\udce9.png")
    assert "Left out caf\\udce9.png\n" in (tmp_path / LOG_FILE).read_text()


def test_silent_run_leaves_no_folder(tmp_path):
    with pytest.raises(OSError, match="no data"), run_folder(tmp_path / "run"):
        raise OSError("no data")
    assert not (tmp_path / "run").exists()


def test_error_that_ends_a_run_is_in_its_log(tmp_path, capsys):
    with pytest.raises(ValueError), run_folder(tmp_path / "run"):
        logging.getLogger("omnilatent.training").warning("begun")
        raise ValueError("the data is rotten")
    assert "ValueError: the data is rotten" in (tmp_path / "run" / LOG_FILE).read_text()
    assert capsys.readouterr().err == "begun\n"  # the command tells the error itself
