"""The evaluation itself: batches of similar lengths, each utterance as if it were alone."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from armory_mdnf.audio import ragged
from armory_mdnf.data.bundled import Utterance
from armory_mdnf.data.selection import read_samples
from armory_mdnf.metrics import perturbation
from armory_mdnf.runner.components import Chosen, Targeter
from armory_mdnf.runner.lines import Line, finite

# What the noise of an evaluation is for, beside the utterance's index: unlike any purpose of an attack, so that no
# attack has seen the draws that it is judged by.
BENIGN, ADVERSARIAL = 0xB001, 0xAD01


@dataclass(frozen=True)
class Evaluation:
    """A recogniser and what is done to it. ``attack`` None leaves the utterances as they are.

    Every draw of an utterance's noise is fixed by the seeds and its position in the split. ``by_keys`` says that the
    defence draws so; one that draws from the global generators, as ART's do, has them seeded anew for each utterance,
    and gets one at a time.
    """

    estimator: Any
    attack: Any | None
    targeter: Targeter | None = None
    use_label: bool = False
    benign: bool = True
    by_keys: bool = True
    seed: int | None = None

    def batches(self, chosen: Chosen, seconds: float) -> list[Chosen]:
        """Batches of at most ``seconds`` of audio, padding and the attack's draws included; the longest first.

        The first batch then tells whether the memory suffices, and bounds the time of the others.
        """
        if not self.by_keys:
            return [[entry] for entry in sorted(chosen, key=lambda entry: -entry[1].duration_s)]
        milliseconds = [round(1000 * utterance.duration_s) for _, utterance in chosen]
        rows = 1 if self.attack is None else self.attack.rows
        chunks = list(ragged.by_length(milliseconds, samples=1000 * seconds / rows))
        return [[chosen[i] for i in chunk] for chunk in reversed(chunks)]

    def __call__(self, batch: Chosen) -> list[Line]:
        """Evaluate a batch."""
        indices = [index for index, _ in batch]
        utterances = [utterance for _, utterance in batch]
        audio = [read_samples(utterance) for utterance in utterances]
        n = len(batch)
        columns: dict[str, Sequence[Any]] = dict.fromkeys(
            ("benign", "adversarial", "target", "snr_db", "l2", "linf"), [None] * n
        )
        seconds: dict[str, float] = {}
        if self.benign:
            columns["benign"], seconds["inference"] = self._timed(lambda: self._predict(audio, indices, BENIGN))
        if self.attack is not None:
            references = [utterance.transcript for utterance in utterances]
            labels: Sequence[str] | None = references if self.use_label else None
            if self.targeter is not None:
                labels = columns["target"] = self.targeter.generate_at(indices, references)
            self._seed_globally(indices, 0)
            changed, seconds["attack"] = self._timed(lambda: self._generate(audio, labels, indices))
            columns["adversarial"] = self._predict(changed, indices, ADVERSARIAL)
            for name in ("snr_db", "l2", "linf"):
                measure = getattr(perturbation, name)
                columns[name] = [finite(measure(x, x_adv)) for x, x_adv in zip(audio, changed, strict=True)]
        shares = [len(x) / sum(map(len, audio)) for x in audio]
        return [
            self._line(index, utterance, {k: column[i] for k, column in columns.items()}, seconds, shares[i])
            for i, (index, utterance) in enumerate(batch)
        ]

    def _line(
        self, index: int, utterance: Utterance, values: dict[str, Any], seconds: dict[str, float], share: float
    ) -> Line:
        own = {name: round(share * value, 6) for name, value in seconds.items()}
        return Line(index, utterance.id, utterance.transcript, **values, seed=self.seed, seconds=own)

    def _predict(self, audio: list[np.ndarray], indices: Sequence[int], purpose: int) -> list[str]:
        self._seed_globally(indices, purpose)
        keys = [(index, purpose) for index in indices]
        return [str(text) for text in self.estimator.predict(audio, batch_size=len(audio), keys=keys)]

    def _generate(self, audio: list[np.ndarray], labels: Sequence[str] | None, indices: Sequence[int]) -> Any:
        assert self.attack is not None
        return self.attack.generate(audio, y=labels, indices=indices)

    def _seed_globally(self, indices: Sequence[int], purpose: int) -> None:
        if self.by_keys:
            return
        seed = zlib.crc32(repr((self.seed or 0, list(indices), purpose)).encode())
        np.random.seed(seed)  # noqa: NPY002 -- the generator that ART's preprocessors draw from
        torch.manual_seed(seed)

    def _timed(self, function: Callable[[], Any]) -> tuple[Any, float]:
        """A result and the wall time in seconds; transcripts and audio come back as NumPy, so a GPU is done then."""
        start = time.perf_counter()
        return function(), time.perf_counter() - start
