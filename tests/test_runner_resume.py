"""How the native runner goes on after a stop or a kill, and what it will not go on with."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import speechlike, tiny_recognizer
from librispeech_folder import make_librispeech
from runner_folder import INDEX, RS, killing, lines, near, same
from test_architecture import MODULES, imports, package_of

from armory_mdnf import cli
from armory_mdnf.asr.checkpoints import save_recognizer
from armory_mdnf.audio.files import write_flac
from armory_mdnf.data import librispeech
from armory_mdnf.errors import OptionError
from armory_mdnf.evaluation.armory_results import read_armory_results
from armory_mdnf.evaluation.baselines import read_baseline
from armory_mdnf.evaluation.records import read_record
from armory_mdnf.files.provenance import of_sources
from armory_mdnf.files.strict_json import loads, read_json
from armory_mdnf.runner import command, journal, named
from armory_mdnf.runner.components import make_estimator
from armory_mdnf.runner.evaluate import Evaluation
from armory_mdnf.runner.named import files_of

pytestmark = pytest.mark.usefixtures("closes_files")


@pytest.fixture
def interrupted(config: dict[str, Any], run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run stopped by Ctrl-C in its second batch."""
    return stop_in_second_batch(config, run, monkeypatch)


def stop_in_second_batch(config: dict[str, Any], run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    config["defense"] = RS
    original, calls = Evaluation.__call__, []

    def call(self: Evaluation, batch: Any) -> Any:
        calls.append(batch)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluation, "__call__", call)
        return run(config, "--batch-seconds", "0.001", code=130)


def test_an_interrupted_run_goes_on(
    config: dict[str, Any],
    run: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    interrupted = stop_in_second_batch(config, run, monkeypatch)
    assert f"stopped after 1 of 3 utterances; go on with\n  armory-mdnf run --resume {interrupted}" in (
        capsys.readouterr().err
    )
    assert not (interrupted / "results.json").exists()
    (first,) = lines(interrupted).values()
    with (interrupted / "utterances.jsonl").open("a") as file:
        file.write('{"index": 2')  # a kill in the middle of a line
    assert cli.main(["run", "--resume", str(interrupted)]) == 0
    found, whole = lines(interrupted), lines(run(config))
    assert found[first.index] == first
    assert all(same(found[i], whole[i]) for i in INDEX)
    outcomes = [read_armory_results(f / "results.json").outcomes for f in (interrupted, run(config))]
    assert all(near(a.adversarial, b.adversarial) for a, b in zip(*outcomes, strict=True))


def test_a_finished_run_goes_on_to_the_same_results(config: dict[str, Any], run: Callable[..., Path]) -> None:
    folder = run(config, "--skip-attack")
    before = (folder / "results.json").read_text()
    assert cli.main(["run", "--resume", str(folder)]) == 0
    assert (folder / "results.json").read_text() == before


def test_another_configuration_does_not_go_on(
    interrupted: Path, config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, resume = tmp_path / "tiny.json", ["--resume", str(interrupted)]
    assert cli.main(["run", "--resume", str(interrupted), "--seed", "9"]) == 2
    assert "seed was" in capsys.readouterr().err
    config["attack"]["kwargs"]["eps"] = 1.0
    path.write_text(json.dumps(config))
    assert cli.main(["run", str(path), *resume]) == 2
    assert "config.attack.kwargs.eps was 1.5 there, is 1.0 now" in capsys.readouterr().err
    config["attack"]["kwargs"]["eps"] = 1.5
    path.write_text(json.dumps(config))
    assert cli.main(["run", str(path), *resume, "--batch-seconds", "9", "--device", "cpu"]) == 0


def test_other_weights_do_not_go_on(interrupted: Path, weights: str, capsys: pytest.CaptureFixture[str]) -> None:
    original = Path(weights).read_bytes()
    try:
        save_recognizer(weights, tiny_recognizer(hidden_size=16), {})
        assert cli.main(["run", "--resume", str(interrupted)]) == 2
    finally:
        Path(weights).write_bytes(original)
    assert "was made of something else: weights." in capsys.readouterr().err


def test_a_run_is_known_by_the_weights_that_are_its_defaults(config: dict[str, Any], weights: str) -> None:
    def files() -> set[str]:
        estimator = make_estimator(config, "cpu")
        return set(files_of([estimator, *estimator.preprocessing_defences]))

    config["defense"] = {"module": "armory_mdnf.defenses", "name": "MDNF", "type": "Preprocessor", "kwargs": {}}
    assert files() == {weights, "melgan", "bundled_l2"}
    config["defense"]["kwargs"] = {"vocoder": "pwg", "curve": None}
    assert files() == {weights, "pwg"}
    config["defense"] = RS
    assert files() == {weights}


@pytest.mark.parametrize(
    "damage",
    [
        "not JSON\n",
        "[]\n",
        '{"index": 1, "index": 1}\n',
        '{"index": NaN}\n',
        "[" * 5000 + "\n",
        '{"index": 1, "words": {}}\n',
        "twice",
        "counts",
        "seconds",
    ],
)
def test_damaged_lines_are_named(interrupted: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = interrupted / "utterances.jsonl"
    text = path.read_text()
    if damage == "counts":
        path.write_text(text.replace('"hits": ', '"hits": 1'))
    elif damage == "seconds":
        path.write_text(re.sub(r'"seconds": {[^}]*}', '"seconds": {"inference": "abc"}', text))
    else:
        path.write_text(text + (text if damage == "twice" else damage))
    assert cli.main(["run", "--resume", str(interrupted)]) == 2
    assert "utterances.jsonl, line" in capsys.readouterr().err


def test_a_damaged_configuration_of_a_run_is_named_with_its_file(
    interrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = interrupted / "run.json"
    content = json.loads(path.read_text())
    content["config"]["dataset"]["batch_size"] = "1"
    path.write_text(json.dumps(content))
    for words in (["run", "--resume"], ["summary"]):
        assert cli.main([*words, str(interrupted)]) == 2
        assert "run.json: dataset.batch_size: expected int, found '1'" in capsys.readouterr().err


def test_two_runs_do_not_write_one_folder(interrupted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = journal.Journal.reopen(interrupted)
    try:
        assert cli.main(["run", "--resume", str(interrupted)]) == 2
    finally:
        other.close()
    assert "is being written by another run" in capsys.readouterr().err


def test_no_folder_is_ever_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1.7e9)
    folders = []
    for _ in range(3):
        made = journal.Journal.create(tmp_path / "new" / "out", "name", {"config": {}})
        made.close()
        folders.append(made.folder)
    assert len(set(folders)) == 3


@pytest.mark.filterwarnings("ignore:.*positions are other than in the whole split")
@pytest.mark.parametrize("what", ["recording", "transcript"])
def test_other_recordings_do_not_go_on(
    what: str,
    config: dict[str, Any],
    run: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = make_librispeech(tmp_path / "LibriSpeech")
    monkeypatch.setenv(librispeech.VARIABLE, str(root))
    config["dataset"] |= {"name": "librispeech", "eval_split": "test_clean", "index": None}
    folder = run(config, "--skip-attack")
    assert cli.main(["run", "--resume", str(folder)]) == 0
    chapter = root / "test-clean" / "84" / "122"
    if what == "recording":
        write_flac(chapter / "84-122-0000.flac", speechlike(19200, 99), 16000)
    else:
        (chapter / "84-122.trans.txt").write_text("84-122-0000 SHE TELLS US\n")
    assert cli.main(["run", "--resume", str(folder)]) == 2
    assert "was made of something else: recordings.84-122-0000 was" in capsys.readouterr().err


def test_runs_of_older_versions_do_not_go_on(interrupted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = interrupted / "run.json"
    for older, lacks in (("/1", "what recordings"), ("/2", "which code of this package")):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"format": f"armory_mdnf_run{older}"}))
        assert cli.main(["run", "--resume", str(interrupted)]) == 2
        err = capsys.readouterr().err
        assert f"{path} is of an older version, which did not keep {lacks}" in err
        assert "start a new run" in err
    content = json.loads(path.read_text()) | {"format": journal.FORMAT, "armory_mdnf": "0.0.1"}
    path.write_text(json.dumps(content))
    assert cli.main(["run", "--resume", str(interrupted)]) == 2
    assert "armory_mdnf was '0.0.1' there" in capsys.readouterr().err


def test_another_torch_or_device_does_not_go_on(interrupted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = interrupted / "run.json"
    content = json.loads(path.read_text())
    for change, said in (
        ({"versions": content["versions"] | {"torch": "0.0"}}, "versions.torch was '0.0' there"),
        ({"device": "elsewhere"}, "device was 'elsewhere' there, is 'cpu' now"),
    ):
        path.write_text(json.dumps(content | change))
        assert cli.main(["run", "--resume", str(interrupted)]) == 2
        assert said in capsys.readouterr().err


def test_other_code_of_this_package_does_not_go_on(
    interrupted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = named.own_code()
    monkeypatch.setattr(named, "own_code", lambda: "0" * 64)
    assert cli.main(["run", "--resume", str(interrupted)]) == 2
    assert f"code.armory_mdnf was '{before}' there, is '{'0' * 64}' now; start a new run" in capsys.readouterr().err


def test_code_is_known_by_its_text_wherever_it_is(tmp_path: Path) -> None:
    sources = {"a.py": "x = 1\ny = 2\n", "inner/a.py": "z = 'ä'\n", "told/b.py": "", "alone.py": ""}

    def checksum(place: str, changes: dict[str, str], ending: str = "\n") -> str:
        for name, text in (sources | changes).items():
            (tmp_path / place / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / place / name).write_bytes(text.replace("\n", ending).encode())
        return of_sources(tmp_path / place, ("told", "alone"))

    same = {
        checksum("as it is", {}),
        checksum("elsewhere", {}, "\r\n"),
        checksum("other files", {"told/b.py": "y", "alone.py": "y", "notes.txt": "y"}),
    }
    others = [{"a.py": "x = 1\ny = 3\n"}, {"inner/a.py": "z = 'a'\n"}, {"c.py": ""}, {"inner/alone.py": ""}]
    assert len(same) == 1
    assert len(same | {checksum(str(number), changes) for number, changes in enumerate(others)}) == 1 + len(others)


def test_no_run_imports_code_that_does_not_count() -> None:
    ours = [name for name in MODULES if package_of(name) not in named.APART]
    assert set(named.APART) < {package_of(name) for name in MODULES}
    reached = {target for name in ours for target in imports(MODULES[name], set(MODULES), lazy=True)}
    assert [name for name in reached if named.is_ours(name) and package_of(name) in named.APART] == []


def test_options_without_effect_are_refused(interrupted: Path, tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["run", "--resume", str(interrupted), "--output-dir", str(tmp_path / "elsewhere")]) == 2
    assert "--output-dir has no effect with --resume" in capsys.readouterr().err
    assert not (tmp_path / "elsewhere").exists()
    assert cli.main(["run", str(tmp_path / "tiny.json"), "--check", "--num-eval-batches", "1"]) == 2
    assert "--num-eval-batches has no effect with --check" in capsys.readouterr().err


# Disks.


def full_from(call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full from a number of finished utterances on."""
    calls: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            real(descriptor)  # of a file that is there whole
            return
        calls.append(descriptor)
        if len(calls) >= call:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(journal.os, "fsync", fsync)


@pytest.mark.parametrize("options", [[], ["--batch-seconds", "0.001"]])
def test_a_full_disk_is_told_in_one_line_with_what_is_on_it(
    options: list[str],
    config: dict[str, Any],
    run: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        full_from(3, patch)
        folder = run(config, "--skip-attack", *options, code=2)
    told = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("batch ")]
    assert told == [
        f"armory-mdnf: error: {folder}/utterances.jsonl: No space left on device; stopped after 2 of 3 utterances, "
        f"which are safe; make room and go on with armory-mdnf run --resume {folder}"
    ]
    assert len(lines(folder)) == 2
    assert cli.main(["run", "--resume", str(folder)]) == 0
    assert set(lines(folder)) == set(INDEX)


def test_a_disk_that_takes_a_part_of_a_line(interrupted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (interrupted / "utterances.jsonl").read_bytes()
    again = journal.Journal.reopen(interrupted)
    (line,) = again.lines.values()
    file: Any = again._file

    class Nearly:
        name, room = file.name, 10

        def fileno(self) -> int:
            return file.fileno()

        def write(self, data: bytes) -> int:
            if not self.room:
                raise OSError(errno.ENOSPC, "No space left on device")
            written = file.write(data[: self.room])
            self.room -= written
            return written

        def close(self) -> None:
            file.close()

    again._file = Nearly()  # type: ignore[assignment]
    with pytest.raises(OSError, match="No space left"):
        again.append([replace(line, index=99)])
    again.close()
    assert (interrupted / "utterances.jsonl").read_bytes() == before
    assert 99 not in again.lines


def test_a_disk_that_is_full_at_the_end(
    config: dict[str, Any], run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def write_text(path: Path, text: str) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(command, "write_text", write_text)
        folder = run(config, "--skip-attack", code=2)
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"armory-mdnf: error: {folder}/results.json: Read-only file system; all utterances are safe; make room and go "
        f"on with armory-mdnf run --resume {folder}"
    )
    assert cli.main(["run", "--resume", str(folder)]) == 0


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "c.json").write_text(json.dumps(config))
    monkeypatch.setattr(Evaluation, "__call__", lambda self, batch: pytest.fail("the work has begun"))
    assert cli.main(["run", str(tmp_path / "c.json"), "--output-dir", str(tmp_path / "file" / "out")]) == 2
    assert capsys.readouterr().err == (
        f"armory-mdnf: error: cannot write to the folder {tmp_path}/file/out: {tmp_path}/file is a file, "
        "expected a folder\n"
    )


def test_too_little_memory_is_told_in_one_line(
    config: dict[str, Any], run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def call(self: Evaluation, batch: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Evaluation, "__call__", call)
    folder = run(config, code=2)
    assert capsys.readouterr().err.splitlines()[-1] == (
        "armory-mdnf: error: not enough memory; stopped after 0 of 3 utterances, which are safe; go on with "
        f"armory-mdnf run --resume {folder} --batch-seconds X, less than 32"
    )


@pytest.mark.slow
def test_a_killed_run_goes_on(config: dict[str, Any], tmp_path: Path) -> None:
    config["attack"]["kwargs"]["max_iter"] = 60
    path, out = tmp_path / "killed.json", tmp_path / "out"
    path.write_text(json.dumps(config))
    command = [*killing(tmp_path, 1), "run", str(path), "--output-dir", str(out)]
    killed = subprocess.run(
        [*command, "--batch-seconds", "0.001"], env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=600
    )
    assert killed.returncode == -signal.SIGKILL
    (folder,) = out.iterdir()
    before = lines(folder)
    assert len(before) == 1
    assert cli.main(["run", "--resume", str(folder)]) == 0
    after = lines(folder)
    assert set(after) == set(INDEX)
    assert all(after[i] == line for i, line in before.items())


def test_names_that_are_no_utf8_are_escaped_in_what_is_written(
    config: dict[str, Any], tmp_path: Path, not_utf8: str, capsys: Any
) -> None:
    path, out, kept = (tmp_path / name for name in (f"{not_utf8}.json", f"out{not_utf8}", f"{not_utf8}"))
    path.write_text(json.dumps(config))
    assert cli.main(["run", str(path), "--output-dir", str(out), "--skip-attack"]) == 0
    (folder,) = out.iterdir()
    assert folder.name.startswith("caf\\udce9_")
    about = read_json(folder / "run.json")
    assert about["config"]["sysconfig"]["output_dir"].endswith("outcaf\\udce9")
    assert cli.main(["run", "--resume", str(folder)]) == 0
    results = (folder / "results.json").rename(folder / f"{not_utf8}.json")
    assert cli.main(["record", str(kept / f"{not_utf8}.json"), str(results), "--partial"]) == 0
    assert read_record(kept / f"{not_utf8}.json").name == r"caf\udce9"
    base, told = tmp_path / f"base{not_utf8}.json", tmp_path / "told.json"
    assert cli.main(["baseline", str(base), str(results)]) == 0
    assert read_baseline(base).name == r"basecaf\udce9"
    wanted = ["--baseline", str(base), "--tolerance", "1", "--json", str(told), "--junit", str(tmp_path / "told.xml")]
    assert cli.main(["gate", str(kept), *wanted]) == 0
    assert cli.main(["gate", str(path), *wanted]) == 2
    assert "caf\\\\udce9.json" in told.read_text()
    assert cli.main(["metrics", str(kept), "--json", str(told)]) == 0
    assert all("caf\\udce9" in name for name in read_json(told)["metrics"])
    capsys.readouterr()
    assert cli.main(["summary", str(results), "--json"]) == 0
    assert r"caf\udce9.json" in loads(capsys.readouterr().out, "the output")["results"]


def test_a_recording_whose_name_is_no_utf8_is_recorded_as_left_out(
    config: dict[str, Any], run: Callable[..., Path], tmp_path: Path, not_utf8: str
) -> None:
    data = tmp_path / "data"
    for name in ("good", not_utf8):
        write_flac(data / "x.flac", speechlike(8000), 16000)
        (data / "x.flac").rename(data / f"{name}.flac")
        (data / f"{name}.txt").write_text("press one")
    config["dataset"] |= {"name": "recordings", "eval_split": str(data), "index": None}
    folder = run(config, "--skip-attack", code=3)
    assert cli.main(["run", "--resume", str(folder)]) == 3
    assert cli.main(["record", str(tmp_path / "tiny.json"), str(folder), "--partial"]) == 0
    (left,) = read_record(tmp_path / "tiny.json").left_out
    assert (left.id, left.file) == (r"caf\udce9", rf"{data}/caf\udce9.flac")


def test_what_cannot_be_written_down_is_refused_before_the_work(config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"cannot be written as JSON: recordings: an unpaired surrogate"):
        journal.Journal.create(tmp_path, "mine", {"recordings": {"\udcff": "x"}})
    assert not any(tmp_path.iterdir())
