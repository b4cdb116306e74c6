"""What the scripts that install this package may replace."""

from __future__ import annotations

import os
import subprocess
import venv
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A stand-in that makes an environment of a folder alone."""
    path = tmp_path / "python"
    path.write_text('#!/bin/sh\nif [ "$1" = -m ]; then mkdir "$3" && touch "$3/made"; else exit 0; fi\n')
    path.chmod(0o755)
    return path


def make(
    folder: Path, python: Path, script: str = "make_venv.sh", **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [TOOLS / script, str(folder)],
        env=os.environ | {"PYTHON": str(python)} | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def a_file(folder: Path) -> None:
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "thesis.tex").touch()


def a_link(folder: Path) -> None:
    folder.mkdir()
    (folder / "data").symlink_to("/somewhere/else")


def a_linked_folder(folder: Path) -> None:
    a_file(folder.with_name("far"))
    folder.symlink_to("far")


def no_folder(folder: Path) -> None:
    folder.touch()


@pytest.mark.parametrize("held", [a_file, a_link, a_linked_folder, no_folder])
@pytest.mark.parametrize("script", ["make_venv.sh", "remove_venv.sh", "install.sh"])
def test_what_is_no_environment_is_left_as_it_is(
    held: Callable[[Path], None], script: str, tmp_path: Path, python: Path
) -> None:
    held(folder := tmp_path / "precious")
    before = sorted(tmp_path.rglob("*"))
    found = make(folder, python, script)
    assert (found.returncode, sorted(tmp_path.rglob("*"))) == (1, before)
    assert found.stderr == f"{folder} is no virtual environment: it is left as it is\n"


class Interrupted(venv.EnvBuilder):
    """Making an environment that is stopped at a step."""

    def __init__(self, step: str) -> None:
        super().__init__()
        setattr(self, step, self.stop)

    def stop(self, context: SimpleNamespace) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize("step", ["create_configuration", "setup_python", "post_setup"])
def test_an_environment_whose_making_was_interrupted_is_replaced(step: str, tmp_path: Path, python: Path) -> None:
    folder = tmp_path / "venv"
    with pytest.raises(KeyboardInterrupt):
        Interrupted(step).create(folder)
    assert folder.is_dir()
    found = make(folder, python)
    assert (found.returncode, found.stderr) == (0, "")
    assert [path.name for path in folder.iterdir()] == ["made"]


def test_an_environment_whose_removal_was_interrupted_is_replaced(tmp_path: Path, python: Path) -> None:
    folder = tmp_path / "venv"
    venv.create(folder)
    (tmp_path / "bin").mkdir()
    stopped = tmp_path / "bin" / "rm"  # after the first of what it is given
    stopped.write_text('#!/bin/sh\n/bin/rm -rf "$2"\nexit 1\n')
    stopped.chmod(0o755)
    before = len(list(folder.iterdir()))
    assert make(folder, python, PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}").returncode == 1
    assert 0 < len(list(folder.iterdir())) < before
    assert make(folder, python).returncode == 0
    assert [path.name for path in folder.iterdir()] == ["made"]


def test_a_new_folder_and_an_empty_one_become_environments(tmp_path: Path, python: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new"):
        assert make(tmp_path / name, python).returncode == 0
        assert (tmp_path / name / "made").is_file()
