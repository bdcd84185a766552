"""Settings in YAML files."""

import pytest

from omnilatent.training import load_config, save_config


def test_settings_come_back_in_their_order(tmp_path):
    config = {"model": {"window_size": [7, 7], "bias_type": "2d"}, "lr": 1e-4, "name": "größer", "resume": None}
    save_config(config, tmp_path / "new" / "config.yaml")
    found = load_config(str(tmp_path / "new" / "config.yaml"))
    assert found == config
    assert list(found) == list(config)


def test_tuples_become_lists(tmp_path):
    save_config({"window_size": (14, 14)}, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == {"window_size": [14, 14]}


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2", "", "a: !!python/object/apply:os.getcwd []"])
def test_what_holds_no_plain_settings_is_refused(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match="config.yaml"):
        load_config(tmp_path / "config.yaml")


def test_what_yaml_cannot_hold_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no plain form"):
        save_config({"fn": print}, tmp_path / "config.yaml")
    with pytest.raises(ValueError, match="must be a dict"):
        save_config([1], tmp_path / "config.yaml")
    assert not list(tmp_path.iterdir())
