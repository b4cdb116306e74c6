"""Files that are read are not written over, and what is written does not take the place of something else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
from conftest import speechlike
from runner_folder import OURS, RS, lines
from test_summary import armory_content

from armory_mdnf import cli
from armory_mdnf.evaluation.baselines import read_baseline
from armory_mdnf.evaluation.comparison import read_run
from armory_mdnf.files import run_folder

RESULTS = Path(__file__).parents[1] / "results" / "human"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("none_benign", "none_pgd_l2"):
        shutil.copy(RESULTS / f"{name}.json", tmp_path)
    shutil.copy(RESULTS.parents[1] / "scenario_configs" / "none_pgd_l2.json", tmp_path / "config.json")
    soundfile.write(tmp_path / "a.wav", speechlike(9000), 16000)
    (tmp_path / "armory.json").write_text(json.dumps(armory_content()))
    (tmp_path / "folder").mkdir()
    shutil.copy(tmp_path / "armory.json", tmp_path / "folder" / "results.json")  # Armory's: no journal is beside it
    shutil.copy(tmp_path / "none_pgd_l2.json", tmp_path / "drawn.svg")
    (tmp_path / "recipe.json").write_text("{}")
    (tmp_path / "page.md").write_text("mine")
    (tmp_path / "w").write_text("weights")
    assert cli.main(["baseline", "base.json", "none_benign.json"]) == 0
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        "metrics none_benign.json --json none_benign.json",
        "gate none_benign.json --baseline base.json --json none_benign.json",
        "gate none_benign.json --baseline base.json --junit ./base.json",
        "gate none_benign.json --baseline base.json --json x --junit x",
        "baseline none_benign.json none_benign.json",
        "claims none_benign.json none_pgd_l2.json --write none_pgd_l2.json",
        "report none_pgd_l2.json -o none_pgd_l2.json",
        "claims none_benign.json --write x --json ./x",
        "claims none_benign.json --check page.md --json page.md",
        "plot drawn.svg -o drawn.svg",
        "record armory.json armory.json",
        "record folder/results.json folder",
        "train level --recognizer w --vocoder melgan --levels 1 --out w",
        "train sensitivity --vocoder melgan w --out w",
        "train curve --vocoder w --out w",
        "train curve --out x.svg --plot x.svg",
        "train vocoder --recipe recipe.json --out folder --export recipe.json",
        "audit config.json --output config.json",
        "defend a.wav -o a.wav",
        "attack a.wav -o ../PLACE/a.wav",
    ],
)
def test_a_command_does_not_write_over_what_it_reads(
    command: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content_of(place)
    assert cli.main(command.replace("PLACE", place.name).split()) == 2
    assert "it is given twice" in capsys.readouterr().err
    assert content_of(place) == before


def content_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", run_folder.ALL)
def test_no_command_writes_over_the_files_of_a_run(
    name: str, config: dict[str, Any], run: Callable[..., Path], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config["attack"] |= OURS | {"kwargs": {"eps": 0.5, "max_iter": 1}}
    folder = run(config, "--index", "13").rename(place / "run")
    before = content_of(folder)
    for command in (
        "record FILE run --partial",
        "record FILE run --add run --partial",
        "metrics run --json FILE",
        "claims run --write FILE",
        "gate run --baseline base.json --json FILE",
        "baseline FILE none_benign.json",
        "report run -o FILE",
        "evaluate --only-write --config FILE",
    ):
        capsys.readouterr()
        assert cli.main(command.replace("FILE", f"run/{name}").split()) == 2
        found = capsys.readouterr().err
        assert "it is the name of a file of the run in its folder" in found or "it is given twice" in found, command
        assert content_of(folder) == before, command


def test_a_sample_does_not_write_over_a_users_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["data", "sample", str(tmp_path / "x"), "--count", "2"]
    assert cli.main(command) == 0
    assert cli.main(command) == 0
    for name, content in (("001.txt", "MINE"), ("000.wav", "MINE")):
        folder = tmp_path / f"of_{name}"
        folder.mkdir()
        (folder / name).write_text(content)
        assert cli.main(["data", "sample", str(folder), "--count", "2"]) == 2
        assert f"{folder / name} is there and not of this sample" in capsys.readouterr().err
        assert [(path.name, path.read_text()) for path in folder.iterdir()] == [(name, content)]


def test_runs_of_other_configurations_have_names_of_their_own(
    config: dict[str, Any], run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def renamed(to: str) -> Path:
        folder = run(config).rename(tmp_path / to)
        assert read_run(folder / "results.json").name == to
        return folder

    runs = [renamed("plain")]
    config["attack"]["kwargs"]["eps"] = 0.1
    runs.append(renamed("small"))
    config["defense"] = RS
    runs.append(renamed("smoothed"))
    config["attack"]["kwargs"]["eps"] = 1.5
    runs.append(renamed("smoothed_more"))
    base, files = str(tmp_path / "base.json"), [str(folder / "results.json") for folder in runs]
    for file in files:
        assert cli.main(["baseline", base, file, "--keep"]) == 0
    names = {f"human/{folder.name}" for folder in runs}
    assert set(read_baseline(Path(base)).cells) == names
    assert cli.main(["baseline", base, *files]) == 0
    assert set(read_baseline(Path(base)).cells) == names
    shutil.copytree(runs[3], tmp_path / "other" / "plain")
    capsys.readouterr()
    assert cli.main(["baseline", base, str(tmp_path / "other" / "plain" / "results.json"), "--keep"]) == 2
    assert "the baseline has another configuration as human/plain" in capsys.readouterr().err
    assert set(read_baseline(Path(base)).cells) == names


def test_every_group_of_attacks_has_its_worst_case(
    config: dict[str, Any], run: Callable[..., Path], tmp_path: Path
) -> None:
    files = []
    for defense in (None, RS):
        for eps in (1.5, 0.1):
            config["defense"] = defense
            config["attack"]["kwargs"]["eps"] = eps
            files.append(str(run(config) / "results.json"))
    assert cli.main(["metrics", *files, "--json", str(tmp_path / "m.json")]) == 0
    rows = json.loads((tmp_path / "m.json").read_text())["metrics"]
    assert len([name for name in rows if name.startswith("worst of ")]) == 2
    assert len(rows) == 6


def test_a_run_that_goes_on_takes_the_batches_of_an_unbroken_one(
    config: dict[str, Any], run: Callable[..., Path]
) -> None:
    config["attack"] |= OURS | {"kwargs": {"eps": 0.5, "max_iter": 3}}
    whole = run(config)
    before = (whole / "utterances.jsonl").read_bytes().splitlines(keepends=True)
    assert len(before) == 3  # one batch
    for kept in (before[:1], before[1:2], before[:2]):
        (whole / "utterances.jsonl").write_bytes(b"".join(kept))
        (whole / "results.json").unlink()
        assert cli.main(["run", "--resume", str(whole)]) == 0
        after = (whole / "utterances.jsonl").read_bytes().splitlines(keepends=True)
        assert sorted(map(_without_times, after)) == sorted(map(_without_times, before))
    assert len(lines(whole)) == 3


def _without_times(line: bytes) -> str:
    content = json.loads(line)
    return json.dumps({key: value for key, value in content.items() if "seconds" not in key}, sort_keys=True)


def test_damaged_results_of_a_sweep_are_made_again(
    config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cell.json").write_text(json.dumps(config))
    command = ["sweep", str(tmp_path / "cell.json"), "--output-dir", str(tmp_path / "runs"), "--processes", "1"]
    assert cli.main(command) == 0
    path = tmp_path / "runs" / "cell" / "results.json"
    whole = json.loads(path.read_text())
    for damage in (b"", b'{"config": ', b"{}"):
        path.write_bytes(damage)
        assert cli.main([*command, "--resume"]) == 0
        assert json.loads(path.read_text())["results"] == whole["results"]


@pytest.mark.parametrize("block", ["user_init", "model", "defense", "attack"])
def test_a_page_does_not_run_what_results_name(
    block: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "planted.py").write_text("from pathlib import Path\n\nPath('ran').touch()\n\n\ndef made(*a, **k): ...\n")
    monkeypatch.syspath_prepend(str(place))
    content = json.loads((place / "none_pgd_l2.json").read_text())
    content.pop("weights", None)
    given = content["config"].get(block) or {"type": "Preprocessor", "kwargs": {}}
    content["config"][block] = given | {"module": "planted", "name": "made"}
    (place / "none_pgd_l2.json").write_text(json.dumps(content))
    for audio, code in (("0", 0), ("1", 3)):
        assert cli.main(["report", "none_pgd_l2.json", "-o", "x.html", "--audio", audio]) == code
        assert not (place / "ran").exists()
    err = capsys.readouterr().err
    assert "found 'planted.made', which is not made because results name it" in err
