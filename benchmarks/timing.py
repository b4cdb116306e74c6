"""Ratios of running times, from runs taken in turn: absolute times of a shared machine mean little."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds of one candidate, a value a round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median in seconds."""
        return statistics.median(self.seconds)

    def ratio(self, base: Timing) -> tuple[float, float, float]:
        """Median, smallest and largest of the ratios to another candidate, round by round."""
        ratios = [a / b for a, b in zip(self.seconds, base.seconds, strict=True)]
        return statistics.median(ratios), min(ratios), max(ratios)


def interleaved(candidates: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """Run every candidate once a round, after one round to warm up; every other round goes backwards."""
    for run in candidates.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds):
        names = list(candidates) if number % 2 else list(candidates)[::-1]
        for name in names:
            _wait()
            began = time.perf_counter()
            candidates[name]()
            _wait()
            seconds[name].append(time.perf_counter() - began)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
