"""Files that one process at a time writes, on file systems with locks and without."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from armory_mdnf.errors import BundleError, ResultsError
from armory_mdnf.files import locks
from armory_mdnf.files.locks import alone_in, held
from armory_mdnf.files.provenance import made_of
from armory_mdnf.runner.journal import Journal
from armory_mdnf.training.state import MADE_OF, claimed


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was said of any file system yet."""
    monkeypatch.setattr(locks, "_TOLD", set())


def refusing(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_work_goes_on_where_nothing_can_be_locked(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refusing(number, monkeypatch)
    about = made_of(config={}, changed={}, versions={})
    with held(tmp_path / "sweep.lock", ResultsError):
        for name in ("a", "b"):
            journal = Journal.create_in(tmp_path / name, about)
            journal.close()
            Journal.reopen(tmp_path / name).close()
    (note,) = capsys.readouterr().err.splitlines()  # once, not for every file
    expected = (
        f"note: {tmp_path / 'sweep.lock'} cannot be locked ({os.strerror(number)}): let no other command write there"
    )
    assert note == expected


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize("number", [None, errno.EAGAIN, errno.EACCES])
def test_what_another_one_writes_is_refused(
    number: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with held(tmp_path / "sweep.lock", ResultsError):
        first = Journal.create_in(tmp_path / "a", made_of(config={}, changed={}, versions={}))
        if number is not None:  # as a file system may say it
            refusing(number, monkeypatch)
        with pytest.raises(ResultsError, match=r"utterances\.jsonl is being written by another run"):
            Journal.reopen(tmp_path / "a")
        with (
            pytest.raises(ResultsError, match=f"is being written by process {os.getpid()} on "),
            held(tmp_path / "sweep.lock", ResultsError),
        ):
            pass
        first.close()
    assert capsys.readouterr().err == ""


def test_one_command_at_a_time_makes_what_a_folder_is_for(tmp_path: Path) -> None:
    """Also one that would make the same: each deletes what the other has half made."""
    folder = tmp_path / "synthetic"
    with claimed(folder, {"seed": 1}, "*.jsonl", "advice"):
        for made in ({"seed": 1}, {"seed": 2}):
            with (
                pytest.raises(BundleError, match=f"{folder} is being written by"),
                claimed(folder, made, "*", "advice"),
            ):
                pass
        (folder / "0000.jsonl").touch()
    with claimed(folder, {"seed": 1}, "*.jsonl", "advice"):
        assert {path.name for path in folder.iterdir()} == {f"{MADE_OF}.json", "0000.jsonl"}
    with (
        pytest.raises(BundleError, match="made of something else: seed was 1 there, is 2 now; advice"),
        claimed(folder, {"seed": 2}, "*.jsonl", "advice"),
    ):
        pass


HOLDER = """
import sys, time
from pathlib import Path
from armory_mdnf.errors import BundleError
from armory_mdnf.files.locks import alone_in
from armory_mdnf.training.loading import ahead

def compute(number):
    return number

with alone_in(Path(sys.argv[1]), BundleError):
    chunks = ahead(compute, 0, 100, 2)
    next(chunks)
    print("held", flush=True)
    time.sleep(1000)
"""


def test_a_killed_command_leaves_no_process_that_holds_its_folder(tmp_path: Path) -> None:
    """Its processes inherit the lock: they must end with it."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BundleError, match="is being written by another command"), alone_in(tmp_path, BundleError):
            pass
        holder.kill()
    for _ in range(1200):  # until they have noticed
        with contextlib.suppress(BundleError), alone_in(tmp_path, BundleError):
            return
        time.sleep(0.05)
    pytest.fail("the folder is held a minute after its command was killed")
