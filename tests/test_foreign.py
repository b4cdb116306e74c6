"""Files of ``torch.save``: read as torch reads them, and nothing in them executed."""

from __future__ import annotations

import io
import os
import pickle
import re
import tarfile
import zipfile
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from foreign_files import Malicious
from hypothesis import given
from hypothesis import strategies as st

from armory_mdnf.errors import BundleError
from armory_mdnf.files.pickles import Inert
from armory_mdnf.files.provenance import sha256_of
from armory_mdnf.foreign import plain, read_checkpoint

BOTH = pytest.mark.parametrize("zipped", [True, False])


def contents() -> dict[str, object]:
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    return {
        "matrix": x,
        "transposed": x.T,
        "slice": x[1:3],
        "parameter": torch.nn.Parameter(x),
        "half": x.half(),
        "bfloat": x.bfloat16(),
        "double": x.double(),
        "integers": torch.arange(3),
        "bytes": torch.arange(3, dtype=torch.uint8),
        "truth": torch.tensor([True, False]),
        "scalar": torch.tensor(2.0),
        "empty": torch.zeros(0, 3),
        "nested": OrderedDict(a=[1, "x", None, 2.5, {"b": (True,)}]),
    }


@BOTH
def test_parity_with_torchs_own_reader(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "c.pt"
    torch.save(contents(), path, _use_new_zipfile_serialization=zipped)
    ours, theirs = read_checkpoint(path), torch.load(path, weights_only=True)
    assert list(ours) == list(theirs)
    for key, value in theirs.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(ours[key], value)
            assert ours[key].dtype == value.dtype
        else:
            assert ours[key] == value


@BOTH
def test_objects_of_missing_packages_become_inert(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "c.pt"
    torch.save({"path": Path("a"), "error": ValueError("b", 3)}, path, _use_new_zipfile_serialization=zipped)
    found = read_checkpoint(path)
    assert isinstance(found["path"], Inert)
    assert found["error"].args == ("b", 3)
    assert plain(found["path"]) == "a"


@BOTH
def test_nothing_is_executed(tmp_path: Path, zipped: bool) -> None:
    marker, path = tmp_path / "executed", tmp_path / "bad.pt"
    torch.save({"a": Malicious(marker)}, path, _use_new_zipfile_serialization=zipped)
    assert isinstance(read_checkpoint(path)["a"], Inert)
    assert not marker.exists()
    torch.load(path, weights_only=False)  # the file is live: an ordinary load does execute it
    assert marker.exists()


def test_a_bare_malicious_pickle_executes_nothing(tmp_path: Path) -> None:
    marker, path = tmp_path / "executed", tmp_path / "bad.pt"
    path.write_bytes(pickle.dumps(Malicious(marker)))
    with pytest.raises(BundleError, match=r"bad\.pt.*another pickle"):
        read_checkpoint(path)
    assert not marker.exists()


# Pickles by hand, each live under an ordinary load: os.system through an operator, through a nested name, and by
# setting an attribute on a function that the reader knows.
LIVE = {
    "call": b"cos\nsystem\n(X%s\x00\x00\x00%stR.",
    "nested": b"\x80\x04\x8c\x02os\x8c\x06system\x93(X%s\x00\x00\x00%stR.",
    "instance": b"(X%s\x00\x00\x00%sios\nsystem\n.",
}


@pytest.mark.parametrize("name", LIVE)
def test_pickles_by_hand_execute_nothing(tmp_path: Path, name: str) -> None:
    marker, path = tmp_path / "executed", tmp_path / "bad.pt"
    command = f"touch {marker}".encode()
    pickled = LIVE[name] % (bytes([len(command)]), command)
    torch.save({}, path)
    rebuilt = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(rebuilt, "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, pickled if info.filename.endswith("data.pkl") else old.read(info))
    path.write_bytes(rebuilt.getvalue())
    assert isinstance(read_checkpoint(path), Inert)
    assert not marker.exists()
    pickle.loads(pickled)
    assert marker.exists()


def test_a_pickle_cannot_change_what_others_use(tmp_path: Path) -> None:
    path = tmp_path / "bad.pt"
    torch.save({}, path)
    rebuilt = io.BytesIO()
    build = b"ctorch._utils\n_rebuild_tensor_v2\n(N}X\x0c\x00\x00\x00__defaults__(K\x01tstb."
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(rebuilt, "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, build if info.filename.endswith("data.pkl") else old.read(info))
    path.write_bytes(rebuilt.getvalue())
    before = torch._utils._rebuild_tensor_v2.__defaults__
    with pytest.raises(BundleError, match=r"bad\.pt: it changes a function"):
        read_checkpoint(path)
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before


def test_programs_and_tar_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "program.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))
    with pytest.raises(BundleError, match=r"program\.pt: it is a TorchScript program"):
        read_checkpoint(path)
    with tarfile.open(tmp_path / "old.pt", "w") as tar:
        tar.add(path, "storages")
    with pytest.raises(BundleError, match=r"old\.pt"):
        read_checkpoint(tmp_path / "old.pt")


def test_bombs_are_refused(tmp_path: Path) -> None:
    path, squeezed = tmp_path / "c.pt", tmp_path / "squeezed.pt"
    torch.save({"w": torch.zeros(100_000)}, path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(squeezed, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info), zipfile.ZIP_DEFLATED)
    with pytest.raises(BundleError, match=r"squeezed\.pt: .* is compressed"):
        read_checkpoint(squeezed)
    torch.save({"w": torch.zeros(1).expand(10**12)}, path)
    with pytest.raises(BundleError, match="repeats a storage of 1 numbers"):
        read_checkpoint(path)


def test_an_old_file_that_claims_terabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    torch.save({"w": torch.zeros(4)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    claim = re.compile(rb"(cpuq.)K\x04(N|q.N)", re.DOTALL)  # location, memo, 4 numbers, no view
    assert len(claim.findall(data)) == 1
    path.write_bytes(claim.sub(lambda found: found[1] + b"\x8a\x06\x00\x00\x00\x00\x00\x01" + found[2], data))
    with pytest.raises(BundleError, match="claim more bytes than the file has"):
        read_checkpoint(path)


@BOTH
def test_truncated_files_are_refused(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "c.pt"
    torch.save(contents(), path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    for size in (0, 1, 2, 20, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(BundleError, match=r"c\.pt"):
            read_checkpoint(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no checkpoint at"):
        read_checkpoint(tmp_path / "none.pt")
    with pytest.raises(BundleError, match="no checkpoint at"):
        read_checkpoint(tmp_path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    path, made = tmp_path_factory.mktemp("files") / "c.pt", []
    for zipped in (True, False):
        torch.save(contents(), path, _use_new_zipfile_serialization=zipped)
        made.append(path.read_bytes())
    return made


@given(data=st.data())
def test_any_damage_is_an_error_of_ours_or_harmless(files: list[bytes], data: st.DataObject) -> None:
    damaged = bytearray(files[data.draw(st.integers(0, 1))])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"damaged.{os.getpid()}.pt"
    path.write_bytes(damaged)
    try:
        with suppress(BundleError):
            read_checkpoint(path)
    finally:
        path.unlink()


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
