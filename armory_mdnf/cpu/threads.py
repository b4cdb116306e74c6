"""Parts of a batch on threads of their own.

A CPU's recurrent layers hardly use a second core, for one utterance or for many: two halves of a batch side by side do.
"""

from __future__ import annotations

import functools
import math
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


def side_by_side(function: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """``function`` of every part, each on its share of the threads that torch has; more parts than threads queue.

    A part's error is raised here, the first one's of several. Behind it, or a ``KeyboardInterrupt``, no part runs on:
    what has begun is waited for, and what has not does not begin.
    """
    if len(parts) == 1:
        return [function(parts[0])]
    total = torch.get_num_threads()
    workers = min(total, len(parts))
    pool = _pool(workers, total // workers)
    futures: list[Future[Result]] = []
    try:
        for part in parts:
            futures.append(pool.submit(function, part))
        wait(futures, return_when=FIRST_EXCEPTION)
    finally:
        # The caller changes back what all parts use, the recogniser's modes for instance.
        for future in futures:
            future.cancel()
        wait(futures)
    return [future.result() for future in futures]


def even_parts(lengths: Sequence[int], count: int) -> list[list[int]]:
    """Positions of utterances in at most ``count`` parts of similar lengths and about equal sums, shortest first."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    share = sum(lengths) / count
    parts: list[list[int]] = [[] for _ in range(count)]
    before = 0
    for i in order:
        # An utterance goes where its middle lies.
        parts[min(int((before + lengths[i] / 2) / share), count - 1)].append(i)
        before += lengths[i]
    return [part for part in parts if part]


def rounds(lengths: Sequence[int], threads: int, samples: float) -> list[list[list[int]]]:
    """Parts of about ``samples`` or less, a multiple of ``threads`` where there are utterances enough; largest first.

    In sets to run one after another: of equal utterances, those that would make one part larger come last. Five draws
    on two threads take as long as six; as four, and then one on both threads, less.
    """
    n = len(lengths)
    spare = n % threads if n > threads and len(set(lengths)) == 1 else 0
    even = lengths[: n - spare]
    count = threads * math.ceil(sum(even) / (threads * samples))
    first = even_parts(even, min(count, len(even)))
    first.sort(key=lambda part: len(part) * max(lengths[i] for i in part), reverse=True)
    return [first, [list(range(n - spare, n))]] if spare else [first]


@functools.lru_cache(maxsize=8)
def _pool(workers: int, threads_each: int) -> ThreadPoolExecutor:
    def settle() -> None:
        torch.get_num_threads()  # or else torch would settle it later, to what the process has
        torch.set_num_threads(threads_each)

    total = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, "armory_mdnf", initializer=settle)
    everyone = threading.Barrier(workers + 1)
    for _ in range(workers):
        pool.submit(everyone.wait)
    everyone.wait()
    torch.set_num_threads(total)  # each worker has set it for threads to come
    return pool


os.register_at_fork(after_in_child=_pool.cache_clear)
