"""The package as it is installed: a wheel in an environment of its own, without the clone and without a network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runner_folder import CONFIGS

import armory_mdnf

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
SOURCES = ("armory_mdnf", "scenario_configs", "setup.cfg", "pyproject.toml", "README.md", "LICENSE", "ATTRIBUTION.md")
NO_INDEX = ("--disable-pip-version-check", "--no-deps", "--no-index")

Said = Callable[..., str]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: a build leaves folders behind."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", *NO_INDEX, "--no-build-isolation", "-w", str(out), str(source)]
    subprocess.run(pip, check=True, timeout=300)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def said(wheel: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Said:
    """Run a program of an environment that has the wheel, and this one's other packages; what it prints."""
    place = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True, timeout=120)
    python = place / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", *NO_INDEX, str(wheel)]
    subprocess.run(pip, check=True, timeout=300)
    (packages,) = place.glob("lib/python*/site-packages")
    # Folders that a .pth names are searched, but their own .pth, one of which leads to a clone, are not read.
    others = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (packages / "others.pth").write_text("\n".join(others))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}

    def run(program: str, *words: str) -> str:
        command = [str(place / "bin" / program), *words]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    found = Path(run("python", "-c", "import armory_mdnf; print(armory_mdnf.__file__)").strip())
    assert found.is_relative_to(place)
    return run


def test_it_has_the_configurations_and_every_data_file(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = Path(armory_mdnf.__file__).parent
    for part in ("weights", "data", "defenses", "evaluation", "report", "training"):
        there = [p for p in (package / part).rglob("*") if p.is_file() and "__pycache__" not in p.parts]
        assert [str(p.relative_to(ROOT)) for p in there if str(p.relative_to(ROOT)) not in names] == []
    configs = {f"armory_mdnf/scenario_configs/{p.relative_to(CONFIGS)}" for p in CONFIGS.rglob("*.json")}
    assert configs == {name for name in names if name.startswith("armory_mdnf/scenario_configs/")}


def test_the_configurations_are_listed_and_written(said: Said, folder: Path) -> None:
    assert len(said("armory-mdnf", "configs").splitlines()) == len(list(CONFIGS.rglob("*.json")))
    said("armory-mdnf", "configs", "none_pgd_l2", "--to", "mine")
    written = folder / "mine" / "none_pgd_l2.json"
    assert written.read_bytes() == (CONFIGS / "none_pgd_l2.json").read_bytes()


def test_a_recording_is_transcribed(said: Said) -> None:
    said("armory-mdnf", "data", "sample", "speech", "--count", "1")
    heard = said("armory-mdnf", "transcribe", "speech/000.wav", "--model", "ds2_base")
    assert heard.strip() == "PRESS SEVEN TO DELETE THIS MESSAGE"


def test_an_utterance_is_evaluated_and_reported(said: Said, folder: Path) -> None:
    words = ["--model", "ds2_base", "--steps", "2", "--limit", "1", "--output-dir", "runs", "--json"]
    found: dict[str, Any] = json.loads(said("armory-mdnf", "evaluate", *words))
    assert found["utterances"] == 1
    assert found["wer"]["benign"]["value"] == 0
    assert found["wer"]["adversarial"]["value"] >= 0
    said("armory-mdnf", "report", "runs", "-o", "report.html")
    assert "PRESS" in (folder / "report.html").read_text(encoding="utf-8")
