"""Unpickling what ``torch.save`` wrote: tensors and plain values are rebuilt, everything else that is named is inert.

A pickle is a program. Python's own unpickler, the one in Python, runs it here with the instructions replaced that call
something, change an object or hash a key, so that a file can neither execute anything nor, with a few bytes, take
hours or gigabytes: the one in C allocates what a memo's number says, and both hash a tuple that holds itself twice, a
hundred times over. No length is believed before that many bytes are there, and no value copied as often as it is named.
"""

from __future__ import annotations

import math
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import IO, Any, ClassVar

import torch
from torch import Tensor

from armory_mdnf.errors import BundleError, quoted

MAX_PICKLE = 4 << 20  # that of a checkpoint with a thousand tensors has some hundred thousand bytes
MAX_DIMENSIONS = 16
MAX_ARGUMENTS = 16  # torch's functions have at most seven
MAX_PAIRS = 1 << 18  # that dictionaries are made of: a list of pairs may be named once for each of its bytes
# A file's tensors may share storages, as tied weights do, this many times over: each may become one of its own.
SHARING = 8
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


class Inert:
    """Stands in for everything that a pickle names and we do not know: it keeps the values and does nothing."""

    __slots__ = ("args", "state")
    args: tuple[Any, ...]
    state: Any

    def __init__(self, args: tuple[Any, ...] = ()) -> None:  # kept as it is: a copy for each call would be gigabytes
        self.args = args
        self.state = None


@dataclass(frozen=True)
class Storage:
    """Numbers that tensors view: those from ``first`` on, ``size`` of them."""

    data: torch.UntypedStorage
    dtype: torch.dtype
    first: int
    size: int


class _Source:
    """A file of which a pickle may read :data:`MAX_PICKLE` bytes, and where an end within it is an error."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.left = file, MAX_PICKLE

    def read(self, size: int) -> bytes:
        if size > self.left:
            raise BundleError(f"it holds a pickle of more than {MAX_PICKLE} bytes")
        return self._taken(self.file.read(size), size)

    def readline(self) -> bytes:
        line = self.file.readline(self.left)
        return self._taken(line, len(line) + (not line.endswith(b"\n")))

    def _taken(self, data: bytes, size: int) -> bytes:
        if len(data) < size:
            raise BundleError("it ends within a pickle (truncated?)")
        self.left -= size
        return data


class Unpickler(pickle._Unpickler):
    """Knows tensors, storages and ordered dictionaries; everything else that is named becomes :class:`Inert`.

    ``storage`` gives a tensor's numbers by type, key and length; ``available`` is how many bytes of them there are.
    Raises :class:`BundleError`, or whatever Python's unpickler does for damage.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)
    # What the class that this one is made of works on.
    stack: list[Any]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, file: IO[bytes], storage: Callable[..., Storage] | None = None, available: int = 0) -> None:
        super().__init__(_Source(file), encoding="utf-8")
        self._storage = storage
        self._left = SHARING * available + (1 << 20)
        self._pairs_left = MAX_PAIRS

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name in DTYPES:
            return DTYPES[name]
        known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor"): _rebuild,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
            ("torch._utils", "_rebuild_parameter"): _parameter,
            ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
        }
        return known.get((module, name), Inert)

    def persistent_load(self, pid: Any) -> Storage:
        is_storage = isinstance(pid, tuple) and 5 <= len(pid) <= MAX_ARGUMENTS and pid[0] == "storage"
        if self._storage is None or not is_storage:
            raise BundleError("it refers to something that is not in the file")
        _, dtype, key, _, numel, *view = pid
        if not isinstance(key, (str, int)) or not isinstance(dtype, torch.dtype):
            raise BundleError(f"tensor storage {quoted(key)} is of a type that is not known here")
        if type(numel) is not int or numel < 0:
            raise BundleError(f"tensor storage {quoted(key)} has a size of {quoted(numel)}")
        whole = self._storage(dtype, str(key), numel)
        if view and view[0] is not None:
            if not isinstance(view[0], tuple) or len(view[0]) != 3 or any(type(n) is not int for n in view[0][1:]):
                raise BundleError(f"tensor storage {quoted(key)} is viewed as {quoted(view[0])}")
            _, first, size = view[0]
            if not 0 <= first <= first + size <= whole.size:
                raise BundleError(f"tensor storage {quoted(key)} is viewed beyond its end")
            return Storage(whole.data, dtype, first, size)
        return whole

    def _call(self, function: Any, args: Any) -> Any:
        """What a call gives, of which only those to the few known functions are made."""
        if not isinstance(args, tuple):
            raise BundleError("it calls something without a tuple of arguments")
        if function is Inert or isinstance(function, Inert):
            return Inert(args)
        if len(args) > MAX_ARGUMENTS:
            raise BundleError(f"it calls something with {len(args)} arguments")
        if function is OrderedDict:
            pairs = args[0] if args else []
            if not isinstance(pairs, list):
                raise BundleError(f"it makes a dictionary of a {type(pairs).__name__}")
            self._pairs_left -= len(pairs)
            if self._pairs_left < 0:
                raise BundleError(f"it makes dictionaries of more than {MAX_PAIRS} pairs in lists")
            return self._put(OrderedDict(), pairs)
        if function is _parameter:
            return _parameter(*args)
        if function is _rebuild:
            tensor = _rebuild(*args)
            self._left -= tensor.numel() * tensor.element_size()
            if self._left < 0:
                raise BundleError("its tensors share their storages more often than weights do")
            return tensor
        raise BundleError(f"it calls {quoted(function)}")

    @staticmethod
    def _put(target: Any, pairs: Iterable[Any]) -> Any:
        if isinstance(target, dict):
            for key, value in pairs:
                target[_key(key)] = value
        elif not isinstance(target, Inert):  # whose items nothing here needs
            raise BundleError(f"it puts items into a {type(target).__name__}")
        return target

    def _pairs(self) -> Iterable[tuple[Any, Any]]:
        items = self.pop_mark()
        return zip(items[::2], items[1::2], strict=True)

    def load_bytearray8(self) -> None:
        """Read, then make the array: Python's makes one of any length to read into."""
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(size)))

    def load_reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], args)

    def load_newobj(self) -> None:
        args, cls = self.stack.pop(), self.stack.pop()
        self.append(self._call(cls, args))

    def load_newobj_ex(self) -> None:
        self.stack.pop()  # keyword arguments, which nothing here has
        self.load_newobj()

    def _instantiate(self, klass: Any, args: Any) -> None:
        self.append(self._call(klass, tuple(args)))

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Inert):
            target.state = state
        elif not isinstance(target, OrderedDict):  # torch's own have attributes, which nothing here needs
            raise BundleError(f"it changes a {type(target).__name__}")

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._put(self.stack[-1], [(key, value)])

    def load_setitems(self) -> None:
        pairs = self._pairs()
        self._put(self.stack[-1], pairs)

    def load_dict(self) -> None:
        self.append(self._put({}, self._pairs()))

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, set):
            target.update(map(_key, items))
        elif not isinstance(target, Inert):
            raise BundleError(f"it adds items to a {type(target).__name__}")

    def load_append(self) -> None:
        item = self.stack.pop()
        self._extend([item])

    def load_appends(self) -> None:
        items = self.pop_mark()
        self._extend(items)

    def load_frozenset(self) -> None:
        self.append(frozenset(map(_key, self.pop_mark())))

    for _code, _load in (
        (pickle.BYTEARRAY8, load_bytearray8),
        (pickle.REDUCE, load_reduce),
        (pickle.NEWOBJ, load_newobj),
        (pickle.NEWOBJ_EX, load_newobj_ex),
        (pickle.BUILD, load_build),
        (pickle.SETITEM, load_setitem),
        (pickle.SETITEMS, load_setitems),
        (pickle.DICT, load_dict),
        (pickle.APPEND, load_append),
        (pickle.APPENDS, load_appends),
        (pickle.ADDITEMS, load_appends),
        (pickle.FROZENSET, load_frozenset),
    ):
        dispatch[_code[0]] = _load


def _key(key: Any) -> Any:
    """A key whose hash takes no time. Raises :class:`BundleError` for any other."""
    parts = key if isinstance(key, tuple) and len(key) <= MAX_DIMENSIONS else (key,)
    for part in parts:
        if isinstance(part, int) and abs(part) >= 1 << 60:
            raise BundleError("it has a key that is a number beyond all addresses")  # many could have one hash
        if not (part is Inert or part is None or isinstance(part, (str, bytes, int, float, Inert, torch.dtype))):
            raise BundleError(f"it has a key that is a {type(part).__name__}")
    return key


def _parameter(tensor: Any, *rest: Any) -> Any:
    return tensor


def _rebuild(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
    if not isinstance(size, (tuple, list)) or not isinstance(stride, (tuple, list)) or len(size) > MAX_DIMENSIONS:
        raise BundleError("it holds a tensor without a valid storage, size or stride")
    if not isinstance(storage, Storage) or not all(
        type(n) is int and 0 <= n < 1 << 62 for n in (offset, *size, *stride)
    ):
        raise BundleError("it holds a tensor without a valid storage, size or stride")
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if math.prod(size) and last >= storage.size:
        raise BundleError(f"a tensor of shape {tuple(size)} reaches beyond its storage of {storage.size} numbers")
    if math.prod(size) > storage.size:  # a stride of zero would make terabytes of one number
        raise BundleError(f"a tensor of shape {tuple(size)} repeats a storage of {storage.size} numbers")
    return torch.empty(0, dtype=storage.dtype).set_(
        storage.data, storage.first + offset, torch.Size(size), tuple(stride)
    )
