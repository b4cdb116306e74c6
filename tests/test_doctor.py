"""What works on this machine."""

from __future__ import annotations

import base64
import configparser
import hashlib
import json
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from armory_mdnf import cli
from armory_mdnf.commands import doctor
from armory_mdnf.data import bundled
from armory_mdnf.files import bundles


def states(findings: Any) -> dict[str, str]:
    return {finding.what: finding.state for finding in findings}


def test_what_is_installed_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["doctor", "--json"])
    content = json.loads(capsys.readouterr().out)
    found = {finding["what"]: finding["state"] for finding in content["findings"]}
    assert {"torch", "device", *bundles.bundled_names(), "human", "synthetic_dev", "docker", "ray"} <= found.keys()
    broken = {what for what, state in found.items() if state == doctor.BROKEN}
    assert broken <= {"armory", "docker", "outputs"}  # the machine's own, which may be full or busy
    assert code == bool(broken)
    advised = [f for f in content["findings"] if f["state"] == doctor.ABSENT]
    assert all(f["advice"] for f in advised)


def test_a_reader_gets_a_line_each(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    bad = doctor.Finding("torch", doctor.BROKEN, "gone", "pip install torch")
    monkeypatch.setattr(doctor, "examine", lambda: iter([doctor.Finding("x", doctor.OK, "1.0"), bad]))
    assert cli.main(["doctor"]) == 1
    first, second, third = capsys.readouterr().out.splitlines()
    assert (first.split(), second.split()) == (["ok", "x", "1.0"], ["!!", "torch", "gone"])
    assert third.strip() == "-> pip install torch"


def test_a_damaged_configuration_of_armory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "_version", lambda module: "0.19.2")
    monkeypatch.setattr(doctor, "find_spec", lambda module: True)
    (tmp_path / ".armory").mkdir()
    for text, state in (("{", doctor.BROKEN), ("{}", doctor.OK)):
        (tmp_path / ".armory" / "config.json").write_text(text)
        (finding,) = doctor.armory()
        assert finding.state == state


def test_damaged_weights_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ds2_mg.safetensors"
    path.write_bytes(bundles.resolve("ds2_mg").read_bytes()[:-5])
    monkeypatch.setattr(bundles, "bundled_names", lambda: ["ds2_mg"])
    monkeypatch.setattr(bundles, "resolve", lambda name: path)
    (finding,) = doctor.weights()
    assert finding.state == doctor.BROKEN
    assert "ds2_mg.safetensors" in finding.detail


def test_weights_whose_package_is_missing_are_named_each(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> None:
        raise ModuleNotFoundError("No module named 'parallel_wavegan'")

    monkeypatch.setattr("armory_mdnf.vocoders.load_vocoder", load)
    monkeypatch.setattr(bundles, "bundled_names", lambda: ["ds2_mg", "melgan", "pwg"])
    recogniser, *others = doctor.weights()
    assert recogniser.state == doctor.OK
    for finding in others:
        assert (finding.state, finding.advice) == (doctor.BROKEN, "")  # the package has a line of its own
        assert "parallel_wavegan" in finding.detail


@pytest.mark.parametrize("same", [True, False])
def test_weights_are_held_against_what_was_installed(same: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bundles.resolve("melgan")
    digest = hashlib.sha256(path.read_bytes() if same else b"other").digest()
    recorded = SimpleNamespace(
        name=path.name,
        hash=SimpleNamespace(value=base64.urlsafe_b64encode(digest).decode().rstrip("=")),
        locate=lambda: path,
    )
    monkeypatch.setattr(metadata, "files", lambda name: [recorded])
    monkeypatch.setattr(bundles, "bundled_names", lambda: ["melgan"])
    (finding,) = doctor.weights()
    assert finding.state == (doctor.OK if same else doctor.BROKEN)
    assert ("as installed" in finding.detail) is same


def test_damaged_recordings_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    good = bundled.load_split("human", "dev")[:2]
    bad = [good[0], bundled.Utterance("x", good[1].path, "X", "v", 1.0, "it is damaged")]
    monkeypatch.setattr(bundled, "load_split", lambda *args, **kwargs: bad)
    assert states(doctor.data())["human"] == doctor.BROKEN


def test_librispeech_is_optional(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ARMORY_MDNF_LIBRISPEECH", str(tmp_path))
    assert states(doctor.data())["LibriSpeech"] == doctor.ABSENT
    (tmp_path / "test-clean").mkdir()
    assert states(doctor.data())["LibriSpeech"] == doctor.OK


def test_docker_without_program_or_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert states(doctor.docker()) == {"docker": doctor.ABSENT}
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/docker")
    answer = SimpleNamespace(returncode=1, stdout="")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: answer)
    assert states(doctor.docker()) == {"docker": doctor.ABSENT}
    answer.returncode, answer.stdout = 0, "27.0\n"
    (finding,) = doctor.docker()
    assert (finding.state, finding.detail) == (doctor.OK, "engine 27.0, with the image armory-mdnf")

    def late(*args: Any, **kwargs: Any) -> None:
        raise subprocess.TimeoutExpired("docker", 10)

    monkeypatch.setattr(subprocess, "run", late)
    assert states(doctor.docker()) == {"docker": doctor.BROKEN}


def test_armory_wants_its_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "find_spec", lambda name: object())
    monkeypatch.setattr(doctor, "_version", lambda name: "0.19.2")
    (finding,) = doctor.armory()
    assert (finding.state, finding.advice) == (doctor.ABSENT, "armory configure --use-defaults")
    (tmp_path / ".armory").mkdir()
    (tmp_path / ".armory" / "config.json").write_text("{}")
    assert states(doctor.armory()) == {"armory": doctor.OK}
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    assert states(doctor.armory()) == {"armory": doctor.BROKEN}
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    assert states(doctor.armory()) == {"armory": doctor.ABSENT}


def test_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    assert set(states(doctor.packages()).values()) == {doctor.BROKEN}
    assert set(states(doctor.extras()).values()) == {doctor.ABSENT}


def test_every_extra_is_looked_at() -> None:
    """Armory has a line of its own, and what developers need is no business of a user's."""
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parents[1] / "setup.cfg")
    extras = {
        name: set(re.findall(r"^[\w-]+", needs.replace("-", "_"), re.MULTILINE))
        for name, needs in setup["options.extras_require"].items()
        if name not in ("armory", "dev")
    }
    assert set.union(*extras.values()) == doctor.EXTRAS.keys()
    for name, (_, advice) in doctor.EXTRAS.items():
        (extra,) = re.findall(r"^pip install 'armory-mdnf\[(\w+)\]'$", advice)
        assert name in extras[extra]


def test_what_pip_alone_does_not_install_comes_with_what_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    advice = {finding.what: finding.advice for look in (doctor.packages, doctor.armory) for finding in look()}
    script = (Path(__file__).parents[1] / "tools" / "install.sh").read_text()
    for words in ("--no-build-isolation parallel-wavegan", "setuptools", "wheel"):
        assert words in advice["parallel_wavegan"]
        assert words in script
    for words in ("uninstall -q -y opencv-python", "--no-deps --force-reinstall opencv-python-headless"):
        assert words.replace("-q ", "") in advice["armory"]
        assert words in script
    assert "`make install`" in advice["armory"]


@pytest.mark.parametrize("path", ["/bin/ffmpeg", None])
def test_ffmpeg_is_for_the_corpora(path: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: path)
    (finding,) = doctor.tools()
    assert (finding.state == doctor.OK) is (path is not None)
    assert "for `train corpus`" in finding.detail


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1e6))
    assert states(doctor.disk()) == {"outputs": doctor.BROKEN}


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), ModuleNotFoundError("No module named 'torch'")])
def test_one_thing_that_fails_does_not_hide_the_others(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise error

    fail.__name__ = "disk"
    monkeypatch.setattr(doctor, "disk", fail)
    monkeypatch.setattr(doctor, "weights", lambda: iter([]))
    found = states(doctor.examine())
    assert found["disk"] == doctor.BROKEN
    assert found["torch"] == doctor.OK
