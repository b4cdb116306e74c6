"""docs/own.md, run as it stands, and the numbers of docs/differences.md."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import speechlike
from test_tour import ROOT, words_of

from armory_mdnf import cli
from armory_mdnf.audio.files import write_flac
from armory_mdnf.data.own import load_own
from armory_mdnf.evaluation.rates import difference
from armory_mdnf.evaluation.records import common_outcomes, read_record

OWN = (ROOT / "docs" / "own.md").read_text(encoding="utf-8")
DIFFERENCES = (ROOT / "docs" / "differences.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", OWN, re.DOTALL) for line in block.splitlines()]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in DIFFERENCES.splitlines()
    if re.search(r"\| `(librispeech|human)/", line)
]


@pytest.mark.slow
def test_every_command_of_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for line in COMMANDS:
        expected = (0, 1) if words_of(line)[0] == "audit" else (0,)
        assert cli.main(words_of(line)) in expected, capsys.readouterr().err
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "my_recordings (own recordings)" in html
    assert html.count('id="audit-1"') == 1
    assert 'href="#audit-1"' in html
    assert len(list(tmp_path.glob("runs/*/results.json"))) == 4


def test_a_data_set_of_hugging_faces_is_saved_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its NAME is a folder here, which needs no network."""
    datasets = pytest.importorskip("datasets", reason="datasets is not installed (the extra hf)")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "NAME").mkdir()
    write_flac("a.flac", speechlike(8000), 16000)
    sound = {"bytes": Path("a.flac").read_bytes(), "path": "a.flac"}
    made = datasets.Dataset.from_dict({"audio": [sound, sound], "text": ["one", "two"]})
    made.cast_column("audio", datasets.Audio()).to_parquet("NAME/test.parquet")
    (block,) = re.findall(r"```python\n(.*?)```", OWN, re.DOTALL)
    exec(block, {})
    assert [(u.transcript, u.duration_s) for u in load_own("my_set")] == [("ONE", 0.5), ("TWO", 0.5)]


def test_own_goes_all_the_way() -> None:
    assert [words_of(line)[0] for line in COMMANDS] == [
        *("data", "transcribe", "evaluate", "evaluate", "evaluate", "run", "audit", "report")
    ]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_the_measured_differences_are_those_of_the_records(row: list[str]) -> None:
    _, first, second, attacked, benign = row
    each = [read_record(ROOT / "results" / f"{name.strip('`')}.json") for name in (first, second)]
    shared = zip(*common_outcomes(*each), strict=True)
    both = [replace(run, outcomes=outcomes) for run, outcomes in zip(each, shared, strict=True)]
    for text, comparison in ((attacked, "adversarial"), (benign, "benign")):
        assert text == ", ".join(f"{100 * (run.rate(comparison) or 0):.1f}" for run in both)
    assert len(both[0].outcomes) == min(len(run.outcomes) for run in each)


def test_there_are_measured_differences() -> None:
    assert len(ROWS) == len(re.findall(r"^\| (?:.*, then|the same:)", DIFFERENCES, re.MULTILINE)) > 5


def test_how_near_the_targeted_attacks_came_is_that_of_the_records() -> None:
    near = [
        100 * (read_record(ROOT / "results" / "human" / f"none_{n}.json").rate("target") or 0)
        for n in ("snr13", "snr20")
    ]
    assert f"a word error rate of {near[0]:.1f} %, the one of 20 dB {near[1]:.1f} %" in " ".join(DIFFERENCES.split())


def test_the_normalisations_differ_by_what_is_said() -> None:
    first, second = (
        read_record(ROOT / "results" / "human" / f"{name}.json")
        for name in ("mg_mdnf_pgd_l2_ours", "mg_mdnf_frame_pgd_l2_ours")
    )
    found = difference(first, second, "adversarial")
    assert found is not None
    assert found.low is not None
    assert found.low < 0 < found.value
    assert f"leaves {100 * found.value:.1f} points less, with an interval that holds 0" in " ".join(DIFFERENCES.split())
