"""What this process may use of its machine."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
GROUP = Path("/sys/fs/cgroup")  # where a container sees its own control group, of version 2
KIB, GIB = 1 << 10, 1 << 30


def cores() -> int:
    """Cores that this process may run on, which can be fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> float:
    """Bytes that further processes can have, by the kernel and a container's limit; infinite if neither tells."""
    room = [math.inf]
    with contextlib.suppress(OSError, KeyError):
        room.append(_counts(MEMINFO)["MemAvailable"] * KIB)
    with contextlib.suppress(OSError, KeyError, ValueError):  # "max" is no limit
        limit, used = (int((GROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        room.append(limit - used + _counts(GROUP / "memory.stat")["inactive_file"])  # a cache that gives way
    return min(room)


def _counts(path: Path) -> dict[str, int]:
    words = (line.split() for line in path.read_text().splitlines())
    return {name.rstrip(":"): int(count) for name, count, *_ in words}
