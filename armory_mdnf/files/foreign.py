"""Reading checkpoints that others wrote, without executing anything that they name.

``torch.save`` writes pickles, and a pickle can name any function to call. Here the two containers that it writes (the
zip of today, the plain file of before torch 1.6) are read directly, their pickles by
:class:`~armory_mdnf.files.pickles.Unpickler`. TorchScript programs, tar files and compressed archives, which
``torch.load`` would open, are refused.
"""

from __future__ import annotations

import io
import itertools
import os
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from armory_mdnf.errors import BundleError, cause, quoted
from armory_mdnf.files.bounds import MAX_VALUES
from armory_mdnf.files.pickles import MAX_PICKLE, Inert, Storage, Unpickler

T = TypeVar("T")

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
MAX_NESTING = 16  # of OmegaConf's containers
ZIP_END = 22  # bytes of an archive's last record, when nothing comments on it


@dataclass(frozen=True)
class Imported(Generic[T]):
    """A module read from a foreign checkpoint: its format, and sentences on what was mapped and what was left."""

    module: T
    format: str
    mapped: tuple[str, ...]
    left: tuple[str, ...]


def plain(value: Any) -> Any:
    """Values of an OmegaConf container, node or enum that was read as :class:`Inert`; None where there are none.

    Raises :class:`BundleError` for one that holds itself, or more than a configuration does.
    """
    return _plain(value, itertools.count(), 0)


def _plain(value: Any, visited: Iterator[int], depth: int) -> Any:
    if not isinstance(value, Inert):
        return value
    if depth > MAX_NESTING or next(visited) > MAX_VALUES:
        raise BundleError("its configuration holds itself, or more values than any does")
    state = value.state
    if isinstance(state, tuple):
        state = next((part for part in state if isinstance(part, dict)), {})
    if isinstance(state, dict) and "_content" in state:
        content = state["_content"]
        if isinstance(content, dict):
            return {k: _plain(v, visited, depth + 1) for k, v in content.items()}
        return [_plain(v, visited, depth + 1) for v in content] if isinstance(content, list) else content
    if isinstance(state, dict) and "_val" in state:
        return _plain(state["_val"], visited, depth + 1)
    return value.args[0] if len(value.args) == 1 else None


def is_torch_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as what ``torch.save`` writes does: a zip archive or a pickle."""
    with open(path, "rb") as f:
        return f.read(2) in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def read_checkpoint(path: str | os.PathLike[str]) -> Any:
    """What ``torch.save`` wrote, tensors on the CPU, unknown objects as :class:`Inert`.

    Raises :class:`BundleError` naming the file if it is missing, truncated, or no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise BundleError(f"no checkpoint at {path}")
    try:
        with path.open("rb") as f:
            zipped = f.read(2) == b"PK"
        return _read_zip(path) if zipped else _read_legacy(path)
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error
    except Exception as error:  # whatever a damaged pickle raises, the user needs the file's name
        raise BundleError(f"{path} is not a readable checkpoint: {cause(error)}") from error


def _untyped(data: bytearray) -> torch.UntypedStorage:
    return torch.frombuffer(data, dtype=torch.uint8).untyped_storage() if data else torch.UntypedStorage(0)


def _read_zip(path: Path) -> Any:
    """Raises :class:`BundleError` for an archive that ``torch.save`` does not write."""
    with path.open("rb") as f:
        f.seek(max(0, path.stat().st_size - ZIP_END))
        end = f.read()
    # zipfile would look for another end before: that of an archive within a tensor, if the file was cut behind it.
    if len(end) != ZIP_END or not end.startswith(b"PK\5\6") or not end.endswith(b"\0\0"):
        raise BundleError("it does not end as a zip archive does (truncated?)")
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1 or len(members) != len(archive.infolist()):
            raise BundleError("expected an archive of torch.save with one data.pkl, found another kind of zip file")
        if min(info.header_offset for info in members.values()) != 0:
            raise BundleError("it does not begin with the archive that it ends with (truncated?)")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}constants.pkl" in members:
            raise BundleError("it is a TorchScript program, which reading would execute; expected a state dict")
        for info in members.values():
            if info.compress_type != zipfile.ZIP_STORED:
                raise BundleError(f"{quoted(info.filename)} is compressed, which torch.save does not do")
        available = path.stat().st_size
        if sum(info.file_size for info in members.values()) > available:
            raise BundleError("its members claim more bytes than the file has")
        if f"{folder}byteorder" in members and archive.read(f"{folder}byteorder") != sys.byteorder.encode():
            raise BundleError("it was written on a machine of another byte order")
        found: dict[str, Storage] = {}

        def storage(dtype: torch.dtype, key: str, numel: int) -> Storage:
            if key not in found:
                info = members.get(f"{folder}data/{key}")
                if info is None or info.file_size < numel * dtype.itemsize:
                    raise BundleError(f"tensor storage {quoted(key)} is missing or shorter than {numel} numbers")
                found[key] = Storage(_untyped(bytearray(archive.read(info))), dtype, 0, numel)
            return _checked(found[key], dtype, key, numel)

        if members[pickles[0]].file_size > MAX_PICKLE:
            raise BundleError(f"it holds a pickle of more than {MAX_PICKLE} bytes")
        # Read whole, so that its checksum is looked at.
        return Unpickler(io.BytesIO(archive.read(pickles[0])), storage, available).load()


def _read_legacy(path: Path) -> Any:
    """Magic number, protocol, machine, the object, storage keys, then the storages, all in one file."""
    with path.open("rb") as f:
        if Unpickler(f).load() != LEGACY_MAGIC:
            raise BundleError("expected a file of torch.save, found another pickle")
        Unpickler(f).load()  # protocol
        machine = Unpickler(f).load()
        if isinstance(machine, dict) and machine.get("little_endian", True) != (sys.byteorder == "little"):
            raise BundleError("it was written on a machine of another byte order")
        size = available = path.stat().st_size
        found: dict[str, Storage] = {}
        buffers: dict[str, bytearray] = {}

        def storage(dtype: torch.dtype, key: str, numel: int) -> Storage:
            nonlocal available
            if key not in found:
                available -= numel * dtype.itemsize
                if available < 0:
                    raise BundleError("its tensors claim more bytes than the file has")
                buffers[key] = bytearray(numel * dtype.itemsize)
                found[key] = Storage(_untyped(buffers[key]), dtype, 0, numel)
            return _checked(found[key], dtype, key, numel)

        content = Unpickler(f, storage, size).load()
        keys = Unpickler(f).load()
        if not isinstance(keys, list) or not all(isinstance(key, (str, int)) for key in keys):
            raise BundleError(f"expected the keys of its storages, found {quoted(keys)}")
        for key in map(str, keys):
            length = f.read(8)  # all of them are looked at: an empty storage is eight zeros, and its end can be missing
            if len(length) != 8 or key not in found or int.from_bytes(length, "little") != found[key].size:
                raise BundleError(f"tensor storage {quoted(key)} is not as large as announced (truncated?)")
            if f.readinto(buffers[key]) != len(buffers[key]):
                raise BundleError(f"it ends within tensor storage {quoted(key)} (truncated?)")
            del found[key]
        if found:
            raise BundleError(f"tensor storage {quoted(min(found))} is missing (truncated?)")
        return content


def _checked(storage: Storage, dtype: torch.dtype, key: str, numel: int) -> Storage:
    if storage.dtype != dtype or storage.size != numel:
        raise BundleError(f"tensor storage {quoted(key)} is described in two ways")
    return storage
