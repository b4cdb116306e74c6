"""Chunks of training batches that processes of their own compute ahead, so that a GPU need not wait for them."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from armory_mdnf.files.processes import end_with_parent

_compute: Callable[[int], Any]


def _start(compute: Callable[[int], Any]) -> None:
    global _compute
    end_with_parent()
    _compute = compute
    torch.set_num_threads(1)


def _call(number: int) -> Any:
    return _compute(number)


def ahead(compute: Callable[[int], Any], first: int, end: int, processes: int) -> Generator[Any, None, None]:
    """``compute(first)`` to ``compute(end - 1)``, in order, computed ahead by ``processes``; here and now if 0.

    The processes are forked when the first is asked for: begin before CUDA is. Each holds what ``compute`` does.
    Raises ``OSError`` if one of them is killed, as the kernel does where memory ends.
    """
    if processes == 0:
        yield from map(compute, range(first, end))
        return
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes, context, _start, (compute,)) as pool:
        waiting: deque[Future[Any]] = deque()
        try:
            for number in range(first, end):
                waiting.append(pool.submit(_call, number))
                if len(waiting) > 2 * processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise OSError(
                "a process that computes ahead was killed (too little memory? fewer of them take less)"
            ) from error
        finally:
            for future in waiting:
                future.cancel()
