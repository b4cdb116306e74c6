"""Streams that are closed, full, gone, or without the letters: a command goes on, or says so in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runner_folder import lines
from test_summary import armory_content

from armory_mdnf import cli
from armory_mdnf.console import Unfailing, unfailing
from armory_mdnf.evaluation.armory_results import read_armory_results
from armory_mdnf.evaluation.records import LeftOut, write_record

COMMAND = f"{sys.executable} -m armory_mdnf.cli"
FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")


def shell(text: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", text],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "", **environment},
    )


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder with one record, whose name has a letter outside ASCII."""
    source = tmp_path / "r.json"
    source.write_text(json.dumps(armory_content()))
    write_record(tmp_path / "results" / "human" / "m\u00e9l.json", read_armory_results(source))
    record = tmp_path / "results" / "human" / "m\u00e9l.json"
    record.write_text(record.read_text().replace('"name": "r"', '"name": "m\\u00e9l"'))
    return tmp_path / "results"


OBEYED = "\x1b[2J\x9b1m\x7f\u202e\r\x07"


def obeyed(value: Any) -> Any:
    """A value of a file with what a terminal obeys in every string and key of it."""
    if isinstance(value, dict):
        return {key: obeyed(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [obeyed(inner) for inner in value]
    return f"{value}{OBEYED}" if isinstance(value, str) else value


@pytest.mark.parametrize(
    "command",
    [
        "summary FILE",
        "summary FILE --json",
        "compare FILE FILE",
        "compare FILE FILE --json",
        "gate FILE --baseline BASE",
        "baseline BASE FILE",
        "baseline NEW FILE",
        "metrics FILE FILE2",
        "claims FILE",
        "report-table --results FOLDER",
        "record OUT FILE",
        "record OUT DAMAGED",
    ],
)
def test_no_word_of_somebodys_results_is_obeyed_by_a_terminal(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, place = tmp_path / "r.json", tmp_path / "results" / "results.json"
    source.write_text(json.dumps(armory_content()))
    run = read_armory_results(source)
    blocks = ("attack", "defense", "model")
    config = {key: block if key in blocks else obeyed(block) for key, block in run.config.items()}
    config["model"] = {"model_kwargs": {"weights": f"ds2_base{OBEYED}"}, "name": f"m{OBEYED}"}
    config["attack"] = {"module": "armory_mdnf.attacks", "name": "PGD", "kwargs": {"norm": "l2", "eps": 1.5}}
    config["defense"] = {"module": "m", "name": f"D{OBEYED}", "kwargs": {f"k{OBEYED}": f"v{OBEYED}"}}
    texts = ("id", "reference", "benign", "adversarial", "target")
    outcomes = [replace(o, target="A B", id=f"u{i}") for i, o in enumerate(run.outcomes)]
    outcomes = [replace(o, **{name: obeyed(getattr(o, name)) for name in texts}) for o in outcomes]
    for path, eps in ((place, 1.5), (tmp_path / "results2.json", 0.5)):
        config["attack"]["kwargs"]["eps"] = eps
        found = replace(
            run,
            name=f"n{OBEYED}",
            config=config,
            outcomes=tuple(outcomes),
            seconds={f"a{OBEYED}": 1.0},
            versions={f"v{OBEYED}": OBEYED},
            left_out=(LeftOut(*(f"x{OBEYED}" for _ in range(3))),),
            changed={f"attack.kwargs.x{OBEYED}": [OBEYED, OBEYED]},
        )
        write_record(path, found)
    (tmp_path / "damaged.json").write_text(json.dumps({"format": OBEYED}))
    base = tmp_path / "base.json"
    assert cli.main(["baseline", str(base), str(tmp_path / "results2.json"), "--source", OBEYED]) == 0
    capsys.readouterr()
    places = {"FILE2": tmp_path / "results2.json", "FILE": place, "FOLDER": place.parent, "BASE": base}
    places |= {"NEW": tmp_path / "new.json", "OUT": tmp_path / "out.json", "DAMAGED": tmp_path / "damaged.json"}
    code = cli.main([str(places.get(word, word)) for word in command.split()])
    assert code == (2 if command.startswith(("record", "gate")) else 0)
    told = "".join(capsys.readouterr())
    assert told
    assert told.replace("\n", "").isprintable()


def test_nothing_that_a_stream_does_ends_the_work() -> None:
    class Broken:
        encoding = "ascii"

        def write(self, text: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            raise OSError

        def isatty(self) -> bool:
            raise ValueError("I/O operation on closed file")

    for stream in (None, Broken()):
        wrapped = unfailing(stream)
        assert wrapped.write("abc") == 3
        wrapped.flush()
        assert wrapped.isatty() is False
        assert unfailing(wrapped) is wrapped
    assert Unfailing(Broken()).encoding == "ascii"


def test_a_reader_that_goes_away(results: Path) -> None:
    found = shell(f"{COMMAND} report-table --results {results} | true; exit ${{PIPESTATUS[0]}}")
    assert (found.returncode, found.stderr) in ((141, ""), (0, ""))
    # Enough output that the reader is gone for certain.
    found = shell(f"{{ sleep 2; {COMMAND} report-table --results {results}; echo $? >&2; }} | true")
    assert found.stderr == "141\n"
    found = shell(f"{{ sleep 2; {COMMAND} --help; }} | true")
    assert found.stderr == ""


@FULL
def test_a_full_standard_output_is_told_in_one_line(results: Path) -> None:
    found = shell(f"{COMMAND} report-table --results {results} > /dev/full")
    assert found.returncode == 2
    assert found.stderr == "armory-mdnf: error: standard output: No space left on device\n"


@FULL
@pytest.mark.parametrize("where", ["2>&-", "2>/dev/full"])
def test_errors_that_cannot_be_told_keep_their_exit_code(where: str, tmp_path: Path) -> None:
    assert shell(f"{COMMAND} report-table --results {tmp_path} {where}").returncode == 2
    assert shell(f"{COMMAND} report-table --nothing {where}").returncode == 2


def test_letters_that_the_locale_lacks(results: Path) -> None:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    found = shell(f"{COMMAND} report-table --results {results}", **plain)
    assert (found.returncode, found.stderr) == (0, "")
    assert r"| m\xe9l |" in found.stdout


@pytest.mark.parametrize("module", ["armory_mdnf.data.check", "armory_mdnf.runner.command", "torch"])
def test_ctrl_c_during_imports(module: str) -> None:
    code = f"""
import sys
class Stop:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Stop())
from armory_mdnf.cli import main
sys.exit(main(["run", "nothing.json"]))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert (found.returncode, found.stderr) == (130, "armory-mdnf: stopped\n")


def test_warnings_of_the_library_are_notes_and_those_of_others_stay() -> None:
    code = r"""
import warnings
from armory_mdnf import console, errors
console.prepare()
warnings.warn("five\x1b[2J of\nten", errors.ArmoryMdnfWarning)
warnings.warn("six of ten")
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert found.stderr == "note: five\\x1b[2J of ten\n<string>:6: UserWarning: six of ten\n"


@FULL
@pytest.mark.slow
def test_a_run_whose_streams_are_closed(config: dict[str, Any], tmp_path: Path) -> None:
    config["dataset"]["index"] = [13]
    (tmp_path / "c.json").write_text(json.dumps(config))
    found = shell(f"{COMMAND} run {tmp_path}/c.json --output-dir {tmp_path}/out >&- 2>&-")
    assert found.returncode == 0
    (folder,) = (tmp_path / "out").iterdir()
    assert set(lines(folder)) == {13}
    assert read_armory_results(folder / "results.json").outcomes


@FULL
@pytest.mark.slow
def test_a_run_whose_summary_cannot_be_written_says_where_the_results_are(
    config: dict[str, Any], tmp_path: Path
) -> None:
    config["dataset"]["index"] = [13]
    (tmp_path / "c.json").write_text(json.dumps(config))
    found = shell(f"{COMMAND} run {tmp_path}/c.json --output-dir {tmp_path}/out > /dev/full")
    assert found.returncode == 2
    (folder,) = (tmp_path / "out").iterdir()
    assert found.stderr.splitlines()[-1] == (
        f"armory-mdnf: error: standard output: No space left on device; the results are in {folder}/results.json"
    )
