"""Components of one's own that keep something: no result depends on the order, the process or the thread."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import speechlike, tiny_recognizer
from runner_folder import change, lines
from torch import Tensor

from armory_mdnf import cli
from armory_mdnf.asr import pipeline
from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.attacks import PGD
from armory_mdnf.defenses import WaveformDefense

DRAWN = {"module": __name__, "name": "drawn", "eval_split": "x", "batch_size": 1, "framework": "numpy"}


class Logged(PGD):
    """Hands on what it is given, as one does that writes a log."""

    def generate(self, x: Any, y: Any = None, **kwargs: Any) -> Any:
        return super().generate(x, y, **kwargs)


class Armorys(PGD):
    """Knows what Armory calls it with, and no more."""

    def generate(self, x: Any, y: Any = None) -> Any:
        return super().generate(x, y)


@pytest.mark.parametrize("name", ["Logged", "Armorys"])
def test_an_attack_that_derives_from_ours_draws_by_positions(
    name: str, config: dict[str, Any], run: Callable[..., Path]
) -> None:
    config["attack"] |= {"module": __name__, "name": name}
    config["attack"]["kwargs"] = {"norm": "linf", "eps": 0.1, "max_iter": 1, "random_start": True}
    both, one = (lines(run(config, "--index", index)) for index in ("13,18", "18"))
    assert (both[18].l2, both[18].snr_db) == pytest.approx((one[18].l2, one[18].snr_db), rel=1e-5)
    assert both[13].l2 != pytest.approx(both[18].l2, rel=1e-5)


class Keeping(WaveformDefense):
    """Remembers its last utterances, and in which threads it was called."""

    def __init__(self) -> None:
        super().__init__(device_type="cpu")
        self.threads: set[int] = set()

    def defend(self, x: Tensor, lengths: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
        self.threads.add(threading.get_ident())
        self.level = x.abs().amax(1, keepdim=True)
        return x / self.level


class Safe(Keeping):
    thread_safe = True


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """And parts of a batch so small that there are several."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(pipeline, "PART_SECONDS", 0.1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("kind", [Keeping, Safe])
def test_others_run_side_by_side_only_where_they_say_that_they_may(kind: Any) -> None:
    defence = kind()
    own = RecognizerEstimator(tiny_recognizer(), preprocessing_defences=defence, device_type="cpu")
    audio = np.array([speechlike(3200, seed=i) for i in range(6)])
    own.loss_gradient(audio, ["A"] * 6)
    assert (defence.threads <= {threading.get_ident()}) == (kind is Keeping)


def put(level: float) -> None:
    """A ``user_init`` that changes something for good."""


@pytest.mark.usefixtures("kept_threads")
@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("user_init", {"module": __name__, "name": "put", "kwargs": {"level": 1.0}}),
        ("sysconfig.local_repo_path", "other"),
    ],
)
def test_cells_that_cannot_take_turns_in_a_process_are_no_sweep(
    where: str, value: Any, grid: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second = Path(grid[1])
    second.write_text(json.dumps(change(json.loads(second.read_text()), where, value)))
    out = tmp_path / "out"
    for paths in (grid, grid[::-1]):
        assert cli.main(["sweep", *paths, "--output-dir", str(out), "--processes", "1"]) == 2
        assert f"{paths[1]}: {where}: expected that of" in capsys.readouterr().err
    assert not out.exists()
    first = Path(grid[0])
    first.write_text(json.dumps(change(json.loads(first.read_text()), where, value)))
    assert cli.main(["sweep", *grid, "--output-dir", str(out), "--processes", "1", "--dry-run"]) == 0


def drawn(split: str, **kwargs: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Utterances of one's own, from a global generator."""
    for word in ("ONE", "TWO"):
        yield 0.1 * np.random.standard_normal((1, 6400)).astype(np.float32), np.array([word])


def test_data_that_are_drawn_are_those_of_the_seed(config: dict[str, Any], run: Callable[..., Path]) -> None:
    config["dataset"] = dict(DRAWN)
    made = []
    for seed in ("0", "0", "1"):
        np.random.standard_normal(5)  # whatever drew before
        folder = run(config, "--skip-attack", "--seed", seed)
        made.append(json.loads((folder / "run.json").read_text())["recordings"])
    assert made[0] == made[1] != made[2]


def test_more_utterances_than_a_slice_has_are_refused(
    config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config["dataset"] = dict(DRAWN)
    (tmp_path / "c.json").write_text(json.dumps(config))
    words = ["run", str(tmp_path / "c.json"), "--skip-attack", "--output-dir", str(tmp_path / "out")]
    assert cli.main([*words, "--index", "[1:2]"]) == 2
    assert "index '[1:2]' has 1 positions, and 2 utterances came for it" in capsys.readouterr().err
    assert cli.main([*words, "--index", "[1:9]"]) == 0  # the split may end before it


def test_a_run_goes_on_with_the_threads_that_it_began_with(
    config: dict[str, Any], run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    del config["user_init"]["kwargs"]["threads"]
    before = torch.get_num_threads()
    folder = run(config, "--skip-attack")
    try:
        torch.set_num_threads(before + 1)
        assert cli.main(["run", "--resume", str(folder)]) == 2
        assert f"threads was {before} there, is {before + 1}" in capsys.readouterr().err
    finally:
        torch.set_num_threads(before)
    assert cli.main(["run", "--resume", str(folder)]) == 0
