"""How far a run is: a bar at a terminal, plain lines elsewhere, and the time left from the first batch on."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from armory_mdnf.console import unfailing
from armory_mdnf.runner.components import Chosen


def audio_seconds(batch: Chosen) -> float:
    """What a batch costs, in seconds of audio: its padding is computed too. Above 0, even of an empty recording."""
    return len(batch) * max(1e-3, *(utterance.duration_s for _, utterance in batch))


def follow(batches: list[Chosen], done: int, stream: TextIO | None = None) -> Iterator[Chosen]:
    """The batches in their order, telling about each when it is done. ``done``: utterances finished before.

    The time left is that of the audio left, at the speed so far. A stream that cannot be written does not stop the run.
    """
    out: Any = unfailing(stream or sys.stderr)
    if out.isatty():
        yield from _bar(batches, done, out)
        return
    total, start = done + sum(map(len, batches)), time.monotonic()
    work, finished = sum(map(audio_seconds, batches)), 0.0
    for number, batch in enumerate(batches, 1):
        yield batch
        done, finished = done + len(batch), finished + audio_seconds(batch)
        elapsed = time.monotonic() - start
        left = elapsed * (work - finished) / finished
        print(
            f"batch {number}/{len(batches)}: {done}/{total} utterances, {clock(elapsed)} elapsed, {clock(left)} left",
            file=out,
            flush=True,
        )


def _bar(batches: list[Chosen], done: int, stream: Any) -> Iterable[Chosen]:
    from tqdm import tqdm

    total = done + sum(map(len, batches))
    form = "{l_bar}{bar}| {postfix[0]}/{postfix[1]} utterances, {elapsed} elapsed, {remaining} left"
    # The bar counts seconds of audio, for an utterance costs what it lasts. No smoothing: the speed is that of all.
    work = sum(map(audio_seconds, batches))
    with tqdm(total=work, file=stream, bar_format=form, postfix=[done, total], smoothing=0) as bar:
        for batch in batches:
            yield batch
            bar.postfix[0] += len(batch)
            bar.update(audio_seconds(batch))


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
