"""Files that one process at a time writes, on file systems with locks and without."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from armory_mdnf.errors import ResultsError
from armory_mdnf.files import locks
from armory_mdnf.files.provenance import made_of
from armory_mdnf.runner.journal import Journal
from armory_mdnf.runner.sweep import _locked


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
    with _locked(tmp_path):
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
    with _locked(tmp_path):
        first = Journal.create_in(tmp_path / "a", made_of(config={}, changed={}, versions={}))
        if number is not None:  # as a file system may say it
            refusing(number, monkeypatch)
        with pytest.raises(ResultsError, match=r"utterances\.jsonl is being written by another run"):
            Journal.reopen(tmp_path / "a")
        with pytest.raises(ResultsError, match=f"is being written by process {os.getpid()} on "), _locked(tmp_path):
            pass
        first.close()
    assert capsys.readouterr().err == ""
