"""How far a run is: a bar at a terminal, plain lines elsewhere, and the time left as soon as anything is done."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO

from armory_mdnf.console import unfailing
from armory_mdnf.runner.components import Chosen

QUIET_S = 60.0
"""Seconds after the last line until one says how far a batch is."""


def audio_seconds(batch: Chosen) -> float:
    """What a batch costs, in seconds of audio: its padding is computed too. Above 0, even of an empty recording."""
    return len(batch) * max(1e-3, *(utterance.duration_s for _, utterance in batch))


def follow(batches: list[Chosen], done: int, attack: Any = None, stream: TextIO | None = None) -> Iterator[Chosen]:
    """The batches in their order, telling about each when it is done, and on the way what ``attack`` says of it.

    ``done``: utterances finished before. An ``attack`` with ``on_progress`` is asked to call what is put there. The
    time left is that of the audio left, at the speed so far. A stream that cannot be written does not stop the run.
    """
    out: Any = unfailing(stream or sys.stderr)
    shown = (_Bar if out.isatty() else _Lines)(batches, done, out)
    try:
        for batch in batches:
            if hasattr(attack, "on_progress"):
                attack.on_progress = shown.within
            yield batch
            shown.finish(batch)
    finally:
        if hasattr(attack, "on_progress"):
            attack.on_progress = None
        shown.close()


class _Lines:
    """A line for each batch, and one a minute within it."""

    def __init__(self, batches: list[Chosen], done: int, out: Any) -> None:
        self.work, self.out = _Work(batches), out
        self.done, self.total = done, done + sum(map(len, batches))
        self.start = self.last = time.monotonic()

    def within(self, share: float) -> None:
        if share < 1 and time.monotonic() - self.last >= QUIET_S:
            self._say(f"{share:.0%} of its attack", self.work.reached(share))

    def finish(self, batch: Chosen) -> None:
        self.done += len(batch)
        self._say(f"{self.done}/{self.total} utterances", self.work.reached(1.0))
        self.work.number += 1

    def _say(self, what: str, reached: float) -> None:
        self.last = time.monotonic()
        elapsed, work = self.last - self.start, self.work
        left = elapsed * (work.seconds - reached) / reached
        text = f"batch {work.number + 1}/{len(work.sizes)}: {what}, {clock(elapsed)} elapsed, {clock(left)} left"
        print(text, file=self.out, flush=True)

    def close(self) -> None:
        """Nothing is open."""


class _Bar:
    """Of seconds of audio, for an utterance costs what it lasts. No smoothing: the speed is that of all."""

    def __init__(self, batches: list[Chosen], done: int, out: Any) -> None:
        from tqdm import tqdm

        self.work = _Work(batches)
        form = "{l_bar}{bar}| {postfix[0]}/{postfix[1]} utterances, {elapsed} elapsed, {remaining} left"
        total = done + sum(map(len, batches))
        self.bar = tqdm(total=self.work.seconds, file=out, bar_format=form, postfix=[done, total], smoothing=0)

    def within(self, share: float) -> None:
        self.bar.update(self.work.reached(share) - self.bar.n)

    def finish(self, batch: Chosen) -> None:
        self.bar.postfix[0] += len(batch)
        self.within(1.0)
        self.work.number += 1

    def close(self) -> None:
        self.bar.close()


class _Work:
    """Seconds of audio of each batch and of all, and the number of the one in work."""

    def __init__(self, batches: list[Chosen]) -> None:
        self.sizes, self.number = [audio_seconds(batch) for batch in batches], 0
        self.seconds = sum(self.sizes)

    def reached(self, share: float) -> float:
        """Seconds that are done with that share of the present batch."""
        return sum(self.sizes[: self.number]) + share * self.sizes[self.number]


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
