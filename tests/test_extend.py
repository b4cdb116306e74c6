"""Every example of docs/extend.md in a file of its own, run from a configuration by both runners."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import speechlike
from runner_folder import needs_armory

from armory_mdnf import cli
from armory_mdnf.audio.files import write_flac
from armory_mdnf.evaluation.armory_results import newest_results, read_armory_results
from armory_mdnf.runner.config import Config

TEXT = (Path(__file__).parents[1] / "docs" / "extend.md").read_text()
SECTION = re.compile(
    r"^## An? (\w+)\n.*?```python\n# (\w+\.py)\n(.*?)```.*?```json\n(.*?)```", re.DOTALL | re.MULTILINE
)
EXAMPLES = {what: (file, code, json.loads(block)) for what, file, code, block in SECTION.findall(TEXT)}
ALL = ["defence", "attack", "geometry", "recogniser", "vocoder", "dataset", "targeter", "metric"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory in which the examples are, and nothing of which stays."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    folder = tmp_path / "recordings" / "test"
    for i, name in enumerate(("press_one", "goodbye")):
        write_flac(folder / f"{name}.flac", speechlike(9000 + 700 * i, i), 16000)
    yield tmp_path
    for file, *_ in EXAMPLES.values():
        sys.modules.pop(file.removesuffix(".py"), None)
    assert not {file.removesuffix(".py") for file, *_ in EXAMPLES.values()} & before


def configured(what: str, place: Path, config: Config) -> Config:
    """The test's configuration with the example's block, next to the example's file."""
    file, code, block = EXAMPLES[what]
    (place / file).write_text(code)
    return config | block


def test_every_kind_has_an_example() -> None:
    assert list(EXAMPLES) == ALL
    assert len(EXAMPLES["defence"][1].splitlines()) <= 20


@pytest.mark.parametrize("what", ALL)
def test_the_native_runner_runs_it(
    what: str, place: Path, config: Config, run: Callable[..., Path], weights: str
) -> None:
    folder = run(configured(what, place, config))
    found = read_armory_results(folder / "results.json")
    assert len(found.outcomes) == (2 if what == "dataset" else 3)
    assert all(o.benign is not None and o.adversarial is not None and o.l2 for o in found.outcomes)
    stored = json.loads((folder / "run.json").read_text())
    module = EXAMPLES[what][0].removesuffix(".py")
    assert module in stored["code"]
    check(what, found.outcomes, json.loads((folder / "results.json").read_text())["results"])
    # ... whatever else is in the batch, and it goes on only with the same code.
    alone = run(configured(what, place, config), "--index", "1" if what == "dataset" else "18")
    assert read_armory_results(alone / "results.json").outcomes[0].l2 == pytest.approx(found.outcomes[1].l2, rel=1e-3)
    if what == "defence":
        (place / f"{module}.py").write_text(EXAMPLES[what][1] + "\n# changed\n")
        assert cli.main(["run", "--resume", str(folder)]) == 2


def check(what: str, outcomes: Any, results: Any) -> None:
    """That what ran is what the example says."""
    if what == "attack":
        assert all(o.linf == pytest.approx(0.01, rel=1e-3) for o in outcomes)
    if what == "dataset":
        assert [o.reference for o in outcomes] == ["GOODBYE", "PRESS ONE"]
    if what == "targeter":
        assert [o.target for o in outcomes] == ["NO"] * 3
    if what == "metric":
        lost = [len(o.reference) - len(o.benign) for o in outcomes]
        assert results["benign_letters_lost"] == [[n] for n in lost]
        assert results["benign_mean_letters_lost"] == [pytest.approx(sum(lost) / len(lost))]
        (shares,) = zip(*results["perturbation_letters.share_changed"], strict=True)
        assert all(0.5 < share <= 1 for share in shares)
        assert results["perturbation_mean_letters.share_changed"] == [pytest.approx(sum(shares) / len(shares))]


def test_the_defence_takes_a_batch_that_is_wider_than_its_utterances(place: Path) -> None:
    configured("defence", place, {})
    sys.path.append(str(place))
    from flutter import Flutter  # type: ignore[import-not-found]

    x, lengths = torch.zeros(2, 9000), torch.tensor([8000, 7000])
    x[0, :8000], x[1, :7000] = 0.1, 0.2
    found = Flutter().transform(x, lengths)
    assert found.shape == x.shape
    assert torch.equal(found[0, 8000:], x[0, 8000:])
    assert torch.equal(found[1, 7000:], x[1, 7000:])
    assert not torch.equal(found, x)


def test_the_geometry_bounds_each_utterance_by_its_own_peak(place: Path) -> None:
    configured("geometry", place, {})
    sys.path.append(str(place))
    from of_the_peak import OfThePeak  # type: ignore[import-not-found]

    x = torch.tensor([[0.5, -0.25, 0.0], [0.0, 0.1, 0.0]])
    assert torch.allclose(OfThePeak(0.1).radius(x), torch.tensor([0.05, 0.01]))


def test_every_command_finds_the_code_beside_it(
    place: Path, config: Config, weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each starts from a path on which the working directory is not."""
    block = configured("defence", place, config)
    (place / "whole.json").write_text(json.dumps(block))
    (place / "alone.json").write_text(json.dumps(block["defense"]))
    write_flac(place / "in.flac", speechlike(9000), 16000)
    module, bare = EXAMPLES["defence"][0].removesuffix(".py"), [p for p in sys.path if p not in ("", str(place))]
    attack = ("attack", "in.flac", "-o", "b.wav", "--model", weights, "--defense", "alone.json", "--steps", "1")
    for command in (
        ("defend", "in.flac", "-o", "a.wav", "--defense", "alone.json"),
        ("transcribe", "in.flac", "--model", weights, "--defense", "alone.json"),
        attack,
        ("audit", "whole.json", "--utterances", "2", "--iterations", "1", "--only", "gradient"),
    ):
        sys.path[:] = bare
        sys.modules.pop(module, None)
        assert cli.main([*command, "--device", "cpu"]) in (0, 1), capsys.readouterr().err
        assert module in sys.modules


def test_a_module_that_is_nowhere_is_named(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config["defense"] = EXAMPLES["defence"][2]["defense"] | {"module": "flutterr"}
    (tmp_path / "c.json").write_text(json.dumps(config))
    assert cli.main(["run", str(tmp_path / "c.json"), "--output-dir", str(tmp_path / "out")]) == 2
    assert "defense.module: no module flutterr" in capsys.readouterr().err


@pytest.mark.armory
@needs_armory
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", ALL)
def test_armory_runs_it(
    what: str, place: Path, config: Config, run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from armory import paths
    from armory.scenarios.main import get

    config = configured(what, place, config)
    native = read_armory_results(run(config) / "results.json")
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.setattr(paths, "NO_DOCKER", True)
    monkeypatch.syspath_prepend(str(place))  # as `armory run` has the working directory
    (place / "armory.json").write_text(json.dumps(config))
    get(str(place / "armory.json"), from_file=True).evaluate()
    path = newest_results()
    theirs = read_armory_results(path)
    assert [o.reference for o in theirs.outcomes] == [o.reference for o in native.outcomes]
    assert all(o.benign is not None and o.l2 for o in theirs.outcomes)
    check(what, theirs.outcomes, json.loads(path.read_text())["results"])
    if what in ("recogniser", "dataset"):  # nothing draws, and ART's attack runs as it is
        assert [o.adversarial for o in theirs.outcomes] == [o.adversarial for o in native.outcomes]
