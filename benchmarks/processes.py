"""Several processes of one thread each in place of one with several threads: ragged batches, and EOT's draws.

Each process has the attacked recogniser; audio goes to it and gradients, or attacked audio, come back, by pipes.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.attacks import PGD
from armory_mdnf.attacks.recognizer import Purpose
from armory_mdnf.audio.noise import Key
from benchmarks.subjects import EPS, estimator

Audio = NDArray[np.float32]


class Workers:
    """So many processes that attack ``name``'s recogniser, with one thread each; a context that ends them."""

    def __init__(self, name: str, processes: int | None = None) -> None:
        self.name = name
        self.processes = processes or os.cpu_count() or 1
        self._pool = ProcessPoolExecutor(self.processes, multiprocessing.get_context("spawn"))

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def generate(self, utterances: Sequence[Audio], texts: Sequence[str], steps: int) -> list[Audio]:
        """What ``steps`` steps of l2 PGD make of utterances (T,), dealt out by length: each process has its share."""
        order = sorted(range(len(utterances)), key=lambda i: -len(utterances[i]))
        shares = [order[p :: self.processes] for p in range(self.processes)]
        jobs = [
            self._pool.submit(_generate, self.name, steps, [utterances[i] for i in s], [texts[i] for i in s], s)
            for s in shares
            if s
        ]
        found: list[Any] = [None] * len(utterances)
        for share, job in zip(filter(None, shares), jobs, strict=True):
            for i, made in zip(share, job.result(), strict=True):
                found[i] = made
        return found

    def mean_gradient(self, audio: Audio, text: str, draws: int, step: int = 0) -> Audio:
        """EOT's gradient (T,) of one utterance, its draws dealt out; the draws are those of the attack at index 0."""
        keys: list[Key] = [(0, Purpose.ATTACK, 0, step, draw) for draw in range(draws)]
        shares = [keys[p :: self.processes] for p in range(min(self.processes, draws))]
        jobs = [self._pool.submit(_summed, self.name, audio, text, share) for share in shares]
        return np.sum([job.result() for job in jobs], axis=0) / np.float32(draws)


@lru_cache(maxsize=1)
def _model(name: str) -> RecognizerEstimator:
    torch.set_num_threads(1)
    return estimator(name)


def _generate(name: str, steps: int, audio: list[Audio], texts: list[str], indices: list[int]) -> list[Audio]:
    return list(PGD(_model(name), norm="l2", eps=EPS, max_iter=steps).generate(audio, texts, indices=indices))


def _summed(name: str, audio: Audio, text: str, keys: Sequence[Key]) -> Audio:
    model, k = _model(name), len(keys)
    rows = torch.from_numpy(audio).repeat(k, 1)
    gradients = model.gradients(rows, torch.full((k,), len(audio)), model.encode([text], 1) * k, keys)
    return gradients.sum(0).numpy()
