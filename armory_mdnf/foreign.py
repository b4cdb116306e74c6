"""Reading checkpoints that others wrote, without executing anything that they name.

``torch.save`` writes pickles, and a pickle can name any function to call. Here the two containers that it writes (the
zip of today, the plain file of before torch 1.6) are read directly: tensors are rebuilt by functions of this module,
every other name becomes an :class:`Inert` stand-in. TorchScript programs, tar files and compressed archives, which
``torch.load`` would open, are refused.
"""

from __future__ import annotations

import hashlib
import math
import os
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

import torch
from torch import Tensor

from armory_mdnf.errors import BundleError

T = TypeVar("T")

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


@dataclass(frozen=True)
class Imported(Generic[T]):
    """A module read from a foreign checkpoint: its format, and sentences on what was mapped and what was left."""

    module: T
    format: str
    mapped: tuple[str, ...]
    left: tuple[str, ...]


class Inert:
    """Stands in for everything that a pickle names and we do not know: it keeps the values and does nothing."""

    args: tuple[Any, ...] = ()
    state: Any = None

    def __new__(cls, *args: Any, **options: Any) -> Inert:
        self = super().__new__(cls)
        self.args = args
        return self

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __call__(self, *args: Any, **options: Any) -> Inert:
        """A pickle calls what an earlier call gave; nothing happens."""
        return Inert(*args)

    def append(self, item: Any) -> None:
        """Pickled list items; kept out, nothing here needs them."""

    def extend(self, items: Any) -> None:
        """Pickled list items; likewise."""

    def add(self, item: Any) -> None:
        """Pickled set items; likewise."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Pickled dictionary items; likewise."""


def plain(value: Any) -> Any:
    """Values of an OmegaConf container, node or enum that was read as :class:`Inert`; None where there are none."""
    if not isinstance(value, Inert):
        return value
    state = value.state
    if isinstance(state, tuple):
        state = next((part for part in state if isinstance(part, dict)), {})
    if isinstance(state, dict) and "_content" in state:
        content = state["_content"]
        if isinstance(content, dict):
            return {k: plain(v) for k, v in content.items()}
        return [plain(v) for v in content] if isinstance(content, list) else content
    if isinstance(state, dict) and "_val" in state:
        return plain(state["_val"])
    return value.args[0] if len(value.args) == 1 else None


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


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
        raise BundleError(f"{path} is not a readable checkpoint: {type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class _Storage:
    data: torch.UntypedStorage
    dtype: torch.dtype
    first: int
    size: int


class _Unpickler(pickle.Unpickler):
    """Knows tensors, storages and ordered dictionaries; everything else that is named becomes inert."""

    def __init__(self, file: IO[bytes], storage: Callable[..., _Storage] | None = None) -> None:
        super().__init__(file, encoding="utf-8")
        self._storage = storage

        # Functions of this one reading: a pickle can set attributes on what it gets, and must not reach others.
        def rebuild(storage: _Storage, offset: int, size: Any, stride: Any, *rest: Any) -> Tensor:
            return _rebuild(storage, offset, size, stride)

        def parameter(tensor: Tensor, *rest: Any) -> Tensor:
            return tensor

        self._known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor"): rebuild,
            ("torch._utils", "_rebuild_tensor_v2"): rebuild,
            ("torch._utils", "_rebuild_parameter"): parameter,
            ("torch._utils", "_rebuild_parameter_with_state"): parameter,
        }

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name in DTYPES:
            return DTYPES[name]
        known = self._known.get((module, name))
        return known if known is not None else type(f"Inert_{name}", (Inert,), {})

    def persistent_load(self, pid: Any) -> _Storage:
        if self._storage is None or not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise BundleError("it refers to something that is not in the file")
        _, dtype, key, _, numel, *view = pid
        if not isinstance(dtype, torch.dtype):
            raise BundleError(f"tensor storage {key!r} is of a type that is not known here")
        if not isinstance(numel, int) or numel < 0:
            raise BundleError(f"tensor storage {key!r} has a size of {numel!r}")
        whole = self._storage(dtype, str(key), numel)
        if view and view[0] is not None:
            _, first, size = view[0]
            if not 0 <= first <= first + size <= whole.size:
                raise BundleError(f"tensor storage {key!r} is viewed beyond its end")
            return _Storage(whole.data, dtype, first, size)
        return whole


def _rebuild(storage: Any, offset: Any, size: Any, stride: Any) -> Tensor:
    numbers = (offset, *size, *stride)
    if not isinstance(storage, _Storage) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise BundleError("it holds a tensor without a valid storage, size or stride")
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if math.prod(size) and last >= storage.size:
        raise BundleError(f"a tensor of shape {tuple(size)} reaches beyond its storage of {storage.size} numbers")
    if math.prod(size) > storage.size:  # a stride of zero would make terabytes of one number
        raise BundleError(f"a tensor of shape {tuple(size)} repeats a storage of {storage.size} numbers")
    return torch.empty(0, dtype=storage.dtype).set_(
        storage.data, storage.first + offset, torch.Size(size), tuple(stride)
    )


def _untyped(data: bytearray) -> torch.UntypedStorage:
    return torch.frombuffer(data, dtype=torch.uint8).untyped_storage() if data else torch.UntypedStorage(0)


def _read_zip(path: Path) -> Any:
    """Raises :class:`BundleError` for an archive that ``torch.save`` does not write."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise BundleError("expected an archive of torch.save with one data.pkl, found another kind of zip file")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}constants.pkl" in members:
            raise BundleError("it is a TorchScript program, which reading would execute; expected a state dict")
        for info in members.values():
            if info.compress_type != zipfile.ZIP_STORED:
                raise BundleError(f"{info.filename!r} is compressed, which torch.save does not do")
        if sum(info.file_size for info in members.values()) > path.stat().st_size:
            raise BundleError("its members claim more bytes than the file has")
        if f"{folder}byteorder" in members and archive.read(f"{folder}byteorder") != sys.byteorder.encode():
            raise BundleError("it was written on a machine of another byte order")
        found: dict[str, _Storage] = {}

        def storage(dtype: torch.dtype, key: str, numel: int) -> _Storage:
            if key not in found:
                info = members.get(f"{folder}data/{key}")
                if info is None or info.file_size < numel * dtype.itemsize:
                    raise BundleError(f"tensor storage {key!r} is missing or shorter than {numel} numbers")
                found[key] = _Storage(_untyped(bytearray(archive.read(info))), dtype, 0, numel)
            return _checked(found[key], dtype, key, numel)

        with archive.open(pickles[0]) as f:
            return _Unpickler(f, storage).load()


def _read_legacy(path: Path) -> Any:
    """Magic number, protocol, machine, the object, storage keys, then the storages, all in one file."""
    with path.open("rb") as f:
        if _Unpickler(f).load() != LEGACY_MAGIC:
            raise BundleError("expected a file of torch.save, found another pickle")
        _Unpickler(f).load()  # protocol
        machine = _Unpickler(f).load()
        if isinstance(machine, dict) and machine.get("little_endian", True) != (sys.byteorder == "little"):
            raise BundleError("it was written on a machine of another byte order")
        available, found = path.stat().st_size, dict[str, _Storage]()
        buffers: dict[str, bytearray] = {}

        def storage(dtype: torch.dtype, key: str, numel: int) -> _Storage:
            nonlocal available
            if key not in found:
                available -= numel * dtype.itemsize
                if available < 0:
                    raise BundleError("its tensors claim more bytes than the file has")
                buffers[key] = bytearray(numel * dtype.itemsize)
                found[key] = _Storage(_untyped(buffers[key]), dtype, 0, numel)
            return _checked(found[key], dtype, key, numel)

        content = _Unpickler(f, storage).load()
        for key in map(str, _Unpickler(f).load()):
            if key not in found or int.from_bytes(f.read(8), "little") != found[key].size:
                raise BundleError(f"tensor storage {key!r} is not as large as announced")
            if f.readinto(buffers[key]) != len(buffers[key]):
                raise BundleError(f"it ends within tensor storage {key!r} (truncated?)")
            del found[key]
        if found:
            raise BundleError(f"tensor storage {min(found)!r} is missing (truncated?)")
        return content


def _checked(storage: _Storage, dtype: torch.dtype, key: str, numel: int) -> _Storage:
    if storage.dtype != dtype or storage.size != numel:
        raise BundleError(f"tensor storage {key!r} is described in two ways")
    return storage
