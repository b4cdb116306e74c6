"""Targets are tried before work starts, and a disk that fails during it gives one line."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from armory_mdnf.errors import OptionError, StorageError
from armory_mdnf.files.atomic import ensure_writable, ensure_writable_folder, storing


def test_a_target_that_can_be_written_is_left_as_it_is(tmp_path: Path) -> None:
    ensure_writable(tmp_path / "new" / "deep" / "curve.json")
    assert list((tmp_path / "new" / "deep").iterdir()) == []
    (tmp_path / "old.json").write_text("kept")
    ensure_writable(tmp_path / "old.json")
    assert (tmp_path / "old.json").read_text() == "kept"
    ensure_writable_folder(tmp_path / "data" / "runs")
    assert list((tmp_path / "data" / "runs").iterdir()) == []


def test_what_cannot_be_written_is_refused_by_name_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    refusals = {
        tmp_path: "it is a folder",
        tmp_path / "file" / "curve.json": f"{tmp_path / 'file'} is a file, expected a folder",
        tmp_path / "file" / "deep" / "curve.json": f"{tmp_path / 'file'} is a file, expected a folder",
        tmp_path / "pipe": "not a plain file",
        tmp_path / ("x" * 300): "too long",
    }
    for path, reason in refusals.items():
        with pytest.raises(OptionError, match="cannot write") as caught:
            ensure_writable(path)
        assert reason in str(caught.value)
    with pytest.raises(OptionError, match=r"cannot write 'a\\x00b'"):
        ensure_writable("a\0b")
    with pytest.raises(OptionError, match=r"cannot write to the folder .*file is a file, expected a folder"):
        ensure_writable_folder(tmp_path / "file")


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder that not even root can write to")
def test_a_folder_that_nobody_can_write_to_is_refused() -> None:
    with pytest.raises(OptionError, match=r"cannot write /sys/kernel/x\.json: "):
        ensure_writable("/sys/kernel/x.json")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line_that_says_what_is_safe() -> None:
    message = r"^No space left on device; 3 shards are safe$"
    with pytest.raises(StorageError, match=message), storing(lambda: "3 shards are safe"), open("/dev/full", "w") as f:
        f.write("x" * 100_000)
    with (
        pytest.raises(StorageError, match=r"^a\.npy: No space left on device; begin again$"),
        storing(lambda: "begin again"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device", "a.npy")
