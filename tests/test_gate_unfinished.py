"""Runs in a folder that were not finished: none is passed over."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from gate_cells import BUNDLED, RESULTS

from armory_mdnf import cli
from armory_mdnf.evaluation.gate_files import find_files
from armory_mdnf.files.run_folder import LINES, NATIVE, PARTIAL

WANTS = "expected results.json beside run.json, found none: the run is not finished; go on with"


@pytest.fixture
def runs(config: dict[str, Any], run: Callable[..., Path], tmp_path: Path) -> Path:
    """A folder with a good result, and a run in it that was killed after its first utterance."""
    folder = tmp_path / "my runs"
    (folder / "deep").mkdir(parents=True)
    shutil.copy(RESULTS / "human" / "rs_benign.json", folder)
    killed = run(config).rename(folder / "deep" / "killed")
    (killed / NATIVE).unlink()
    lines = (killed / LINES).read_text().splitlines(keepends=True)
    (killed / LINES).write_text(lines[0])
    return folder


def gated(*paths: Path, options: tuple[str, ...] = ()) -> int:
    return cli.main(["gate", *map(str, paths), "--baseline", str(BUNDLED), *options])


def test_a_killed_run_in_a_folder_is_refused(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    killed, junit = runs / "deep" / "killed", tmp_path / "x.xml"
    advice = f"{WANTS} `armory-mdnf run --resume {shlex.quote(str(killed))}`"
    capsys.readouterr()
    for paths in ((runs,), (runs, killed)):
        assert gated(*paths, options=("--junit", str(junit), "--json", str(tmp_path / "x.json"))) == 2
        out = capsys.readouterr().out
        assert re.findall("^CANNOT COMPARE .*", out, re.MULTILINE) == [f"CANNOT COMPARE {killed}: {advice}"]
        assert re.search(r"^human/rs_benign  benign WER %", out, re.MULTILINE)  # the other is judged
        suite = ElementTree.parse(junit).getroot()[0]
        assert (suite.get("errors"), suite.get("failures")) == ("1", "0")
        assert json.loads((tmp_path / "x.json").read_text())["cannot_compare"] == [
            {"results": str(killed), "why": advice}
        ]
    assert gated(killed) == 2
    assert f"CANNOT COMPARE {killed}: {advice}\n" in capsys.readouterr().out
    command = shlex.split(advice.split("`")[1])[1:]
    assert cli.main(command) == 0  # as it was told
    assert find_files([killed]) == ([killed / NATIVE], [])


def test_a_cell_of_a_sweep_that_is_not_done_is_refused_unless_parts_are_asked_for(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = runs / "deep" / "killed"
    about = json.loads((cell / "run.json").read_text())
    (cell / "run.json").write_text(json.dumps(about | {"sweep": {"batch_seconds": 32.0}}))
    content = json.loads((runs / "rs_benign.json").read_text())  # compared, it would be as before
    for partial, options in ((False, ()), (False, ("--common",)), (True, ())):
        if partial:
            (cell / PARTIAL).write_text(json.dumps(content))
        capsys.readouterr()
        assert gated(runs, options=options) == 2
        out = capsys.readouterr().out
        refused = f"CANNOT COMPARE {cell}: {WANTS} `armory-mdnf sweep ... --resume`"
        assert re.findall("^CANNOT COMPARE .*", out, re.MULTILINE) == [refused]
        assert "1 compared: 1 as before" in out
    assert find_files([cell], parts=True) == ([cell / PARTIAL], [])  # of what both have something can be said
    assert find_files([cell / PARTIAL]) == ([cell / PARTIAL], [])  # named itself, it is read
    (cell / NATIVE).write_text(json.dumps(content))  # killed before what was there so far was removed
    for parts in (False, True):
        assert find_files([cell], parts) == ([cell / NATIVE], [])


def test_what_is_no_unfinished_run_is_none(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    killed = runs / "deep" / "killed"
    aside = runs / ".set_aside"
    aside.mkdir()
    killed.rename(aside / "killed.2024")
    (runs / "deep" / "run.json").write_text('{"format": "of something else"}')
    (runs / "deep" / "partial.json").write_text('{"rows": []}')
    assert gated(runs) == 0, capsys.readouterr().out
    (refusal,) = find_files([aside])[1]  # named itself
    assert refusal.results == str(aside / "killed.2024")
    (runs / "deep" / "run.json").write_text('{"format": "armory_mdnf_r')  # cut short
    capsys.readouterr()
    assert gated(runs) == 2
    (line,) = re.findall("^CANNOT COMPARE .*", capsys.readouterr().out, re.MULTILINE)
    assert line.startswith(f"CANNOT COMPARE {runs / 'deep' / 'run.json'}: ")
