"""Files of ``torch.save``: read as torch reads them, and nothing in them executed."""

from __future__ import annotations

import itertools
import os
import pickle
import pickletools
import re
import tarfile
import tracemalloc
import zipfile
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from foreign_files import Malicious, legacy_file, within, zip_with_pickle
from hypothesis import given
from hypothesis import strategies as st

from armory_mdnf.errors import BundleError
from armory_mdnf.files import foreign, pickles
from armory_mdnf.files.foreign import LEGACY_MAGIC, plain, read_checkpoint
from armory_mdnf.files.pickles import Inert
from armory_mdnf.files.provenance import sha256_of

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
    path.write_bytes(zip_with_pickle(pickled))
    assert isinstance(read_checkpoint(path), Inert)
    assert not marker.exists()
    pickle.loads(pickled)
    assert marker.exists()


def test_a_pickle_cannot_change_what_others_use(tmp_path: Path) -> None:
    path = tmp_path / "bad.pt"
    build = b"ctorch._utils\n_rebuild_tensor_v2\n(N}X\x0c\x00\x00\x00__defaults__(K\x01tstb."
    path.write_bytes(zip_with_pickle(build))
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


def small_contents() -> dict[str, object]:
    """Three storages, one of them without numbers."""
    return {"a": torch.arange(3), "empty": torch.zeros(0), "b": torch.tensor([1.5]), "text": "x"}


def refuse_every_truncation(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    for size in reversed(range(len(data))):
        os.truncate(path, size)
        with pytest.raises(BundleError, match=r"c\.pt") as refused:
            read_checkpoint(path)
        assert len(str(refused.value)) < 500
    path.write_bytes(data)
    found = read_checkpoint(path)
    assert found["a"].tolist() == [0, 1, 2]
    assert found["b"].tolist() == [1.5]
    assert found["empty"].shape == (0,)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_every_truncation_of_an_old_file_is_refused(tmp_path: Path, order: tuple[int, ...]) -> None:
    """Whichever storage is the last: that of an empty tensor is eight zeros, of which any number can be missing."""
    refuse_every_truncation(tmp_path / "c.pt", legacy_file(small_contents(), order))


def test_every_truncation_of_a_zip_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    torch.save(small_contents(), path)
    refuse_every_truncation(path, path.read_bytes())


def test_a_file_within_a_file_does_not_stand_for_it(tmp_path: Path) -> None:
    """Cut behind the checkpoint that a tensor of bytes holds, a zip file ends as one does."""
    path = tmp_path / "c.pt"
    torch.save({"a": 1}, path)
    inner = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
    torch.save({"inner": inner}, path)
    data = path.read_bytes()
    end = data.index(bytes(inner.tolist())) + len(inner)
    assert len(data) > end
    path.write_bytes(data[:end])
    with pytest.raises(BundleError, match=r"c\.pt: it does not begin with the archive that it ends with"):
        read_checkpoint(path)


def test_an_archive_with_a_comment_is_refused_cut_or_not(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    torch.save(small_contents(), path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"abc"
    data = path.read_bytes()
    for size in range(len(data) - 4, len(data) + 1):
        path.write_bytes(data[:size])
        with pytest.raises(BundleError, match=r"c\.pt: it does not end as a zip archive does"):
            read_checkpoint(path)


# Pickles of a few bytes that would take hours or gigabytes.
TUPLES = b"\x80\x02)" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(100))  # each holds the one before it twice
BOMBS = {
    "a memo's number": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "bytes of a terabyte": b"\x80\x04\x8e\x00\x00\x00\x00\x00\x01\x00\x00.",
    "an array of a terabyte": b"\x80\x05\x96\x00\x00\x00\x00\x00\x01\x00\x00.",
    "a frame of a terabyte": b"\x80\x04\x95\x00\x00\x00\x00\x00\x01\x00\x00N.",
    "a key without end": b"\x80\x02}(" + TUPLES[2:] + b"Nu.",
    "a key without end, one item": b"\x80\x02}" + TUPLES[2:] + b"Ns.",
    "a dictionary of it": b"\x80\x02(" + TUPLES[2:] + b"Nd.",
    "a set of it": b"\x80\x04\x8f(" + TUPLES[2:] + b"\x90.",
    "a frozen set of it": b"\x80\x04(" + TUPLES[2:] + b"\x91.",
    "ordered": b"\x80\x02ccollections\nOrderedDict\n]]" + TUPLES[2:] + b"aNaa\x85R.",
    "an index": b"ctorch._utils\n_rebuild_tensor_v2\n" + TUPLES[2:] + b"R.",
    "the name of a storage": b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + TUPLES[2:] + b"NK\x01NtQ.",
    "a size": b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000N" + TUPLES[2:] + b"NtQ.",
    "a number of many digits": b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000N\x8b\xff\xff\x01\x00"
    + b"\x7f" * 0x1FFFF
    + b"NtQ.",
    "a name of a million letters": b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x40\x42\x0f\x00"
    + b"\x1b" * 10**6
    + b"NNNtQ.",
    "keys of one hash": b"\x80\x02}("
    + b"".join(b"\x8a\x0b" + (i * (2**61 - 1)).to_bytes(11, "little") + b"N" for i in range(1, 50_000))
    + b"u.",
}


# What claims to be long: each instruction that has a length, with one of 1 GiB, in its file and in a frame.
GIB = 1 << 30
LENGTHS = {
    "bytes": b"B" + GIB.to_bytes(4, "little"),
    "long bytes": b"\x8e" + GIB.to_bytes(8, "little"),
    "a bytearray": b"\x96" + GIB.to_bytes(8, "little"),
    "a text": b"X" + GIB.to_bytes(4, "little"),
    "a long text": b"\x8d" + GIB.to_bytes(8, "little"),
    "an old text": b"T" + GIB.to_bytes(4, "little"),
    "a number": b"\x8b" + GIB.to_bytes(4, "little"),
    "a frame": b"\x95" + GIB.to_bytes(8, "little"),
    "a place": b"Nr" + GIB.to_bytes(4, "little") + b"j" + (GIB - 1).to_bytes(4, "little"),
    "a place in letters": b"Np%d\ng%d\n" % (GIB, GIB - 1),
    "a bytearray of all memory": b"\x96" + (2**63 - 1).to_bytes(8, "little"),
    "a bytearray beyond memory": b"\x96" + (2**64 - 1).to_bytes(8, "little"),
}


def refusal(path: Path) -> str:
    """What the reader says, or nothing if it reads the file."""
    try:
        read_checkpoint(path)
    except BundleError as error:
        return str(error)
    return ""


@BOTH
@pytest.mark.parametrize("name", BOMBS)
def test_pickles_are_bounded(tmp_path: Path, name: str, zipped: bool) -> None:
    path, head = tmp_path / "bomb.pt", b"".join(pickle.dumps(v, 2) for v in (LEGACY_MAGIC, 1001, {}))
    path.write_bytes(zip_with_pickle(BOMBS[name]) if zipped else head + BOMBS[name] + pickle.dumps([], 2))
    tracemalloc.start()
    try:
        with within(20):
            said = refusal(path)
        assert len(said) < 500
        assert said.isprintable()
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def peak(path: Path) -> int:
    """Most bytes that reading a file took at once; it must be refused."""
    tracemalloc.start()
    try:
        with within(20):
            assert refusal(path) != ""
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@BOTH
@pytest.mark.parametrize("framed", [True, False])
@pytest.mark.parametrize("name", LENGTHS)
def test_no_length_is_believed(tmp_path: Path, name: str, framed: bool, zipped: bool) -> None:
    path, code = tmp_path / "claim.pt", LENGTHS[name] + b"."
    code = b"\x80\x05" + (b"\x95" + len(code).to_bytes(8, "little") if framed else b"") + code
    path.write_bytes(zip_with_pickle(code) if zipped else code)
    assert peak(path) < 8 << 20


@BOTH
@pytest.mark.parametrize(
    ("once", "again"),
    [
        (b"(" + b"N" * 20_000 + b"tq\x010cunknown\nThing\nq\x00", b"h\x00h\x01R"),
        (b"(" + b"N" * 20_000 + b"tq\x010cunknown\nThing\nq\x00", b"h\x00h\x01\x81"),
        (
            b"]q\x01(" + b"".join(b"M" + i.to_bytes(2, "little") + b"N\x86" for i in range(20_000)) + b"e0"
            b"ccollections\nOrderedDict\nq\x00",
            b"h\x00h\x01\x85R",
        ),
    ],
)
def test_no_value_is_copied_again_and_again(tmp_path: Path, once: bytes, again: bytes, zipped: bool) -> None:
    """A hundred thousand bytes would take a gigabyte, as many copies as there are calls."""
    path, code = tmp_path / "copies.pt", b"\x80\x02" + once + again * 8_000 + b"."
    assert len(code) < 250_000
    path.write_bytes(zip_with_pickle(code) if zipped else code)
    tracemalloc.start()
    try:
        with within(20):
            refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 128 << 20
    finally:
        tracemalloc.stop()


@given(
    opcode=st.sampled_from([op for op in pickletools.opcodes if op.arg and op.arg.n < 0]),
    size=st.sampled_from([GIB, 2**31 - 1, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1]),
    before=st.binary(max_size=20),
)
def test_no_length_of_any_instruction_is_believed(opcode: pickletools.OpcodeInfo, size: int, before: bytes) -> None:
    width = {pickletools.TAKEN_FROM_ARGUMENT1: 1, pickletools.TAKEN_FROM_ARGUMENT8U: 8}.get(opcode.arg.n, 4)
    claim = opcode.code.encode("latin-1") + (size % 2 ** (8 * width)).to_bytes(width, "little")
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"length.{os.getpid()}.pt"
    path.write_bytes(zip_with_pickle(b"\x80\x05C" + bytes([len(before)]) + before + claim))
    try:
        assert peak(path) < 8 << 20
    finally:
        path.unlink()


@BOTH
def test_a_bytearray_is_read(tmp_path: Path, zipped: bool) -> None:
    path, value = tmp_path / "c.pt", bytearray(range(256)) * 300
    torch.save({"a": value}, path, _use_new_zipfile_serialization=zipped, pickle_protocol=5)
    assert read_checkpoint(path) == {"a": value}


@BOTH
def test_a_pickle_has_a_largest_size(tmp_path: Path, zipped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.pt"
    torch.save({"a": list(range(1000))}, path, _use_new_zipfile_serialization=zipped)
    assert refusal(path) == ""
    for module in (pickles, foreign):
        monkeypatch.setattr(module, "MAX_PICKLE", 1000)
    assert "it holds a pickle of more than 1000 bytes" in refusal(path)


def test_a_storage_is_shared_a_few_times_only(tmp_path: Path) -> None:
    """Whoever turns weights into floats of their own would make a file of a megabyte into gigabytes."""
    path, weight = tmp_path / "c.pt", torch.zeros(1 << 18)
    torch.save({str(i): weight for i in range(8)}, path)
    assert len(read_checkpoint(path)) == 8
    torch.save({str(i): weight.view(-1) for i in range(1000)}, path)
    with pytest.raises(BundleError, match="share their storages more often"):
        read_checkpoint(path)


def test_containers_that_hold_themselves_have_no_plain_value() -> None:
    node, twice = Inert(), Inert()
    node.state = {"_val": node}
    for _ in range(15):
        outer = Inert()
        outer.state = {"_content": {str(i): twice for i in range(4)}}
        twice = outer
    for bad in (node, twice):
        with within(20), pytest.raises(BundleError, match="holds itself, or more values"):
            plain(bad)


@given(data=st.binary(max_size=300))
def test_any_pickle_is_refused_or_harmless(data: bytes) -> None:
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"pickle.{os.getpid()}.pt"
    path.write_bytes(zip_with_pickle(b"\x80\x04" + data + b"."))
    try:
        with within(20):
            assert len(refusal(path)) < 500
    finally:
        path.unlink()


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
