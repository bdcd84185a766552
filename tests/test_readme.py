"""What README and the pages of the docs show works as it stands there."""

import re
from pathlib import Path

import pytest

from omnilatent.training import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ("README.md", "docs/hooks.md", "docs/vision_transformer.md")
BLOCKS = [
    (page, block)
    for page in PAGES
    for block in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
]
COMMANDS = re.findall(r"^omnilatent [^#\n]*", README, flags=re.MULTILINE)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_python_example_runs_in_an_empty_folder(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page, block = BLOCKS[number]
    exec(compile(block, f"{page}, example {number + 1}", "exec"), {"__name__": "example"})


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_understood(command):
    assert callable(cli.make_parser().parse_args(command.split()[1:]).run)


def test_there_are_examples_and_commands():
    assert len(BLOCKS) >= 4 and len(COMMANDS) >= 3


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "docs/deployment.md", "docs/specification.md"])
def test_links_lead_to_files(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []


@pytest.mark.parametrize("page", [*PAGES, "docs/deployment.md", "docs/specification.md"])
def test_named_files_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(
        r"`((?:configuration|modeling_omni|processing|training|tests|hub_examples|docs)/[\w/.]*)`", text
    )
    assert [path for path in named if not (ROOT / path).exists()] == []
