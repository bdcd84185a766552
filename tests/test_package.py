"""Promises of the package as a whole: what the wheel holds, what an import costs, that documented examples run."""

import doctest
import importlib
import inspect
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from omnilatent.training.data import make_small_world

ROOT = Path(__file__).parent.parent
SOURCES = ("omnilatent", "configuration", "modeling_omni", "processing", "training")

SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def run_python(code, cwd, *paths):
    """Run code in a fresh interpreter that sees `paths` before everything else; returns what it printed."""
    code = f"import sys; sys.path[:0] = {[str(path) for path in paths]}\n" + code
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def source_files():
    return [path for folder in SOURCES for path in sorted((ROOT / folder).rglob("*.py"))]


def module_names():
    return [".".join(in_package(path).with_suffix("").parts).removesuffix(".__init__") for path in source_files()]


def in_package(path):
    """Where a source file lies in the wheel."""
    path = path.relative_to(ROOT)
    return path if path.parts[0] == "omnilatent" else "omnilatent" / path


def test_every_package_folder_is_listed_in_pyproject():
    folders = {".".join(in_package(path).parent.parts) for path in source_files()}
    assert folders == set(SETUPTOOLS["packages"])


def test_every_folder_of_code_has_an_init_file():
    assert {path.parent for path in source_files()} == {
        path.parent for path in source_files() if path.name == "__init__.py"
    }


def test_module_basenames_are_unique_in_the_whole_package():
    names = [path.name for path in source_files() if path.name != "__init__.py"]
    assert sorted(names) == sorted(set(names))


LAZY = ["omnilatent", "omnilatent.training", "omnilatent.training.data", "omnilatent.training.finetuning"]


@pytest.mark.parametrize("name", LAZY)
def test_every_public_name_resolves_and_is_listed_by_dir(name):
    package = importlib.import_module(name)
    assert set(package.__all__) <= set(dir(package))
    for public in package.__all__:
        assert getattr(package, public) is not None


@pytest.mark.parametrize("name", LAZY)
def test_unknown_public_name_is_an_attribute_error(name):
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'OmniLatntModel'"):
        importlib.import_module(name).OmniLatntModel  # noqa: B018


def test_only_one_file_makes_names_lazy():
    makers = [path.name for path in source_files() if "def __getattr__(name" in path.read_text()]
    assert makers == ["lazy_names.py"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """The folder that examples call "videos"."""
    folder = tmp_path_factory.mktemp("examples") / "videos"
    make_small_world(folder, num_videos=5, pixels=32)
    return folder


@pytest.mark.parametrize("name", module_names())
def test_public_examples_run(name, videos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").symlink_to(videos)
    module = importlib.import_module(name)
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in finder.find(module, name=name):
        if test.examples and inspect.getmodule(module) is module:
            runner.run(strip_fences(test))
    assert runner.failures == 0, f"{runner.failures} of {runner.tries} examples in {name} fail; see the output above"


def strip_fences(test):
    """Markdown's closing fence is no expected output."""
    for example in test.examples:
        example.want = example.want.removesuffix("```\n")
    return test


def test_import_loads_no_more_libraries_than_transformers_and_peft():
    code = """
from transformers import AutoModel, PreTrainedModel
import peft
loaded = set(sys.modules)
import omnilatent
print({name.split(".")[0] for name in set(sys.modules) - loaded} - {"omnilatent", "einops", "torchvision", "transformers"})
print([name for name in sys.modules if name.startswith("omnilatent.training")])
"""
    assert run_python(code, ROOT / "tests").splitlines() == ["set()", "[]"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"omnilatent"}
    assert "omnilatent/py.typed" in names
    shipped = {name for name in names if name.endswith(".py")}
    assert shipped == {str(in_package(path)) for path in source_files()}


def test_wheel_imports_from_an_empty_directory(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    (tmp_path / "empty").mkdir()
    code = """
import omnilatent
from omnilatent.training import cli
print(omnilatent.__file__)
print(omnilatent.OmniLatentModel(omnilatent.OmniLatentConfig.tiny()).config.hidden_size)
print(cli.__file__)
"""
    package, hidden_size, cli = run_python(code, tmp_path / "empty", tmp_path / "site").splitlines()
    assert Path(package).is_relative_to(tmp_path) and Path(cli).is_relative_to(tmp_path)
    assert hidden_size == "48"


def test_package_works_beside_its_sources(tmp_path):
    """From the repository root `./omnilatent` comes first; its sub-packages are then its neighbours."""
    code = "import omnilatent; from omnilatent.configuration import modalities; print(modalities.__file__)"
    assert run_python(code, ROOT, ROOT) == str(ROOT / "configuration" / "modalities.py")
