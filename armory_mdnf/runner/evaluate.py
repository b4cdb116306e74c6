"""The evaluation itself: batches of similar lengths, each utterance as if it were alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from armory_mdnf.asr.preprocessing import Defense
from armory_mdnf.audio import ragged
from armory_mdnf.audio.checks import MAX_ABSOLUTE
from armory_mdnf.data.bundled import Utterance
from armory_mdnf.data.selection import read_samples
from armory_mdnf.errors import (
    ArmoryMdnfError,
    AttackError,
    AudioError,
    OptionError,
    TranscriptError,
    cause,
    quoted,
    traced,
)
from armory_mdnf.evaluation.records import LeftOut, Outcome
from armory_mdnf.metrics import perturbation
from armory_mdnf.runner.components import Chosen, Targeter
from armory_mdnf.runner.generators import seeded, states
from armory_mdnf.runner.lines import failed, finite
from armory_mdnf.runner.metrics import measured
from armory_mdnf.runner.neighbours import mixed

Heard = tuple[int, Utterance, np.ndarray]
"""An utterance with its position in its split and its samples."""

# What the noise of an evaluation is for, beside the utterance's index: unlike any purpose of an attack, so that no
# attack has seen the draws that it is judged by. THEIRS is of what an attack draws that knows no keys, such as ART's.
BENIGN, ADVERSARIAL, THEIRS = 0xB001, 0xAD01, 0xA77C
SIZES = ("snr_db", "l2", "linf", "segmental_snr_db")
"""Functions of :mod:`armory_mdnf.metrics.perturbation` that are kept of every perturbation."""


@dataclass(frozen=True)
class Evaluation:
    """A recogniser and what is done to it. ``attack`` None leaves the utterances as they are.

    Every draw of an utterance's noise is fixed by the seeds and its position in the split. ``by_keys`` says that
    recogniser and defence draw so; what draws from the global generators, as ART's do, has them seeded anew for each
    utterance, and gets one at a time. ``in_batches`` says that the attack takes ragged batches and positions; another
    gets an utterance at a time, as in ``armory run``. ``theirs`` names the components that are not of this package,
    for what they do wrong. ``measures``: further sizes of the perturbation, by the names that the metrics have.
    ``intelligibility``: of defended speech against the clean, where it is measured. ``case`` is that of all references,
    as :func:`case_of` tells it: an utterance whose transcript has another one is left out, with that as its reason.
    """

    estimator: Any
    attack: Any | None
    targeter: Targeter | None = None
    use_label: bool = False
    benign: bool = True
    by_keys: bool = True
    in_batches: bool = True
    seed: int | None = None
    theirs: str = ""
    measures: Mapping[str, Callable[[Any, Any], Any]] = field(default_factory=dict)
    intelligibility: Callable[[Any, Any], float | None] | None = None
    case: str = ""

    def batches(self, chosen: Chosen, seconds: float) -> list[Chosen]:
        """Batches of at most ``seconds`` of audio, padding and the attack's draws included; the longest first.

        The first batch then tells whether the memory suffices, and bounds the time of the others.
        """
        if not self.by_keys or not (self.attack is None or self.in_batches):
            return [[entry] for entry in sorted(chosen, key=lambda entry: -entry[1].duration_s)]
        milliseconds = [round(1000 * utterance.duration_s) for _, utterance in chosen]
        rows = getattr(self.attack, "rows", 1)
        chunks = list(ragged.by_length(milliseconds, samples=1000 * seconds / rows))
        return [[chosen[i] for i in chunk] for chunk in reversed(chunks)]

    def __call__(self, batch: Chosen) -> list[Outcome | LeftOut]:
        """Evaluate a batch. An utterance that cannot be processed costs itself alone, and says why."""
        heard: list[Heard] = []
        done: list[Outcome | LeftOut] = []
        for index, utterance in batch:
            try:
                check_reference(self.estimator, utterance.transcript)
                heard.append((index, utterance, self._read(utterance)))
            except (AudioError, TranscriptError) as error:
                done.append(failed(index, utterance, error))
        return done + self._attempt(heard)

    def _read(self, utterance: Utterance) -> np.ndarray:
        audio = read_samples(utterance)
        least = getattr(self.estimator, "min_samples", 1)
        if len(audio) < least:
            raise AudioError(f"expected at least {least} samples, found {len(audio)}")
        return audio

    def _attempt(self, heard: list[Heard]) -> list[Outcome | LeftOut]:
        """Evaluate utterances together; one by one if that fails, to find those that it fails for."""
        if not heard:
            return []
        before = states() if self.theirs else None
        try:
            if before is not None and len(heard) > 1:
                self._hold_to_promises(heard, before)
                before = states()  # what was built in between drew its weights
            found = self._evaluate(heard)
            if before is not None and states() != before:
                self.refuse_global_draws(heard[0])
            return found
        except (AudioError, TranscriptError, AttackError) as error:
            problem: object = error
        except (ArmoryMdnfError, OSError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            if not self.theirs:
                raise
            problem = f"{self.theirs} cannot be used: {traced(error)}"
        if len(heard) == 1:
            return [failed(*heard[0][:2], problem)]
        return [line for one in heard for line in self._attempt([one])]

    def _hold_to_promises(self, heard: list[Heard], before: Any) -> None:
        """Before an attack takes its time: raise :class:`OptionError` where a batch decides what an utterance gets."""
        _, utterances, audio = zip(*heard, strict=True)
        problem = mixed(self.estimator, audio, [utterance.transcript for utterance in utterances])
        if states() != before:
            self.refuse_global_draws(heard[0])
        if problem:
            raise OptionError(f"{problem}; --batch-seconds 0.1 takes utterances one at a time")

    def _evaluate(self, heard: list[Heard]) -> list[Outcome | LeftOut]:
        indices, utterances, audio = (list(column) for column in zip(*heard, strict=True))
        n = len(heard)
        columns: dict[str, Sequence[Any]] = dict.fromkeys(
            ("benign", "adversarial", "target", *SIZES, "stoi", "measures"), [None] * n
        )
        seconds: dict[str, float] = {}
        wrong: dict[int, str] = {}
        references = [utterance.transcript for utterance in utterances]
        if self.benign:
            columns["benign"], seconds["inference"] = self._timed(lambda: self._predict(audio, indices, BENIGN))
            check_in_case(self.case, "transcript", columns["benign"])  # before the attack, which takes the time
        if self.intelligibility is not None:
            behind = self._defended(audio, indices)
            columns["stoi"] = [self.intelligibility(x, y) for x, y in zip(audio, behind, strict=True)]
        if self.attack is not None:
            labels = self._labels(indices, references)
            if self.targeter is not None and labels is not None:
                columns["target"] = labels
                check_in_case(self.case, "target", labels)
            changed, seconds["attack"] = self._timed(lambda: self.generate(audio, labels, indices))
            wrong = {i: why for i in range(n) if (why := _difference(audio[i], changed[i]))}
            kept = [i for i in range(n) if i not in wrong]
            texts = self._predict([changed[i] for i in kept], [indices[i] for i in kept], ADVERSARIAL) if kept else []
            columns["adversarial"] = _spread(kept, texts, n)
            check_in_case(self.case, "transcript", texts)
            for name in SIZES:
                measure = getattr(perturbation, name)
                columns[name] = _spread(kept, [finite(measure(audio[i], changed[i])) for i in kept], n)
            columns["measures"] = _spread(kept, [self._measured(audio[i], changed[i]) for i in kept], n)
        shares = [len(x) / sum(map(len, audio)) for x in audio]
        return [
            failed(index, utterance, f"attack {type(self.attack).__name__} gave {wrong[i]}")
            if i in wrong
            else self._line(index, utterance, {k: column[i] for k, column in columns.items()}, seconds, shares[i])
            for i, (index, utterance, _) in enumerate(heard)
        ]

    def _line(
        self, index: int, utterance: Utterance, values: dict[str, Any], seconds: dict[str, float], share: float
    ) -> Outcome:
        own = {name: round(share * value, 6) for name, value in seconds.items()}
        return Outcome(utterance.transcript, id=utterance.id, index=index, seed=self.seed, seconds=own, **values)

    def _labels(self, indices: Sequence[int], references: Sequence[str]) -> Sequence[str] | None:
        """What the attack goes by: the targets, the references, or nothing."""
        if self.targeter is not None:
            return self.targeter.generate_at(indices, references)
        return references if self.use_label else None

    def refuse_global_draws(self, one: Heard) -> None:
        """Raise :class:`OptionError` for a component that draws from a global generator although it is given keys.

        Nothing fixes such draws, so that a result would hang on its batch. Each component is asked about one utterance:
        whatever was built when it was first used, and drew its weights, draws no more.
        """
        index, utterance, audio = one
        parts: dict[str, Callable[[], Any]] = {}
        if callable(getattr(self.estimator, "defended", None)):
            parts["the defence"] = lambda: self._defended([audio], [index])
        if not getattr(getattr(self.estimator, "model", None), "draws_idly", False):
            parts["the recogniser"] = lambda: self._predict([audio], [index], BENIGN)
            if self.attack is not None:
                parts[f"attack {type(self.attack).__name__}"] = lambda: self.generate(
                    [audio], self._labels([index], [utterance.transcript]), [index]
                )
        for name, part in parts.items():
            before = states()
            part()
            if drawn := [whose for whose, state in states().items() if state != before[whose]]:
                raise OptionError(
                    f"{name} draws from {drawn[0]} global generator, which nothing fixes in a batch: draw from the "
                    "streams or keys that it is given, as docs/extend.md says"
                )

    def _predict(self, audio: list[np.ndarray], indices: Sequence[int], purpose: int) -> list[str]:
        with self._seeded(indices, purpose):
            if callable(getattr(self.estimator, "keyed", None)):
                keys = [(index, purpose) for index in indices]
                found = self.estimator.predict(audio, batch_size=len(audio), keys=keys)
            else:
                found = self.estimator.predict(np.stack(audio))
        texts = [text.decode() if isinstance(text, bytes) else str(text) for text in found]
        if len(texts) != len(audio):
            raise AudioError(f"the recogniser gave {len(texts)} transcripts for {len(audio)} utterances")
        return texts

    def _defended(self, audio: list[np.ndarray], indices: Sequence[int]) -> list[np.ndarray]:
        """What the recogniser hears of clean utterances (T,), by the draws that :meth:`_predict` has for them."""
        with self._seeded(indices, BENIGN):
            return self.estimator.defended(audio, keys=[(index, BENIGN) for index in indices])

    def generate(self, audio: list[np.ndarray], labels: Sequence[str] | None, indices: Sequence[int]) -> Any:
        """What the attack makes of utterances (T,) at these positions, with the draws that the run has there."""
        assert self.attack is not None
        with self._seeded(indices, 0):
            if self.in_batches:
                changed = self.attack.generate([x.copy() for x in audio], y=labels, indices=indices)
            else:
                changed = self._theirs(np.stack(audio), None if labels is None else np.array(labels), indices)
        if len(changed) != len(audio):
            name = type(self.attack).__name__
            raise AttackError(f"attack {name} gave {len(changed)} recordings for {len(audio)} utterances")
        return changed

    def _theirs(self, x: np.ndarray, y: np.ndarray | None, indices: Sequence[int]) -> list[np.ndarray]:
        """What an attack makes of one utterance that is called as Armory calls it. Shape: (1, T) -> 1 array (T,)."""
        assert self.attack is not None
        keyed = getattr(self.estimator, "keyed", None)
        if callable(count_from := getattr(self.attack, "count_from", None)):
            count_from(indices[0])  # it derives from this package's, and draws by the count where it is given no more
        with keyed((*indices, THEIRS)) if callable(keyed) else nullcontext():
            found = self.attack.generate(x=x, y=y)
        return [np.asarray(u, x.dtype) if np.asarray(u).dtype.kind == "f" else u for u in found]

    def _measured(self, x: np.ndarray, x_adv: np.ndarray) -> dict[str, float | None]:
        """Sizes of a perturbation by metrics of batches, as Armory's are."""
        return {name: measured(measure, name, x[None], x_adv[None]) for name, measure in self.measures.items()}

    @contextmanager
    def _seeded(self, indices: Sequence[int], purpose: int) -> Iterator[None]:
        """Seed what draws without keys, for one utterance, and leave the global generators as they were found."""
        if self.by_keys and (self.in_batches or purpose):
            yield
            return
        with seeded(self.seed or 0, list(indices), purpose) as seed:
            for operation in getattr(self.estimator, "preprocessing_operations", []):
                if isinstance(operation, Defense) and callable(rewind := getattr(operation, "rewind", None)):
                    rewind(seed)  # it draws by the count of its calls where nobody gives it keys
            yield

    def _timed(self, function: Callable[[], Any]) -> tuple[Any, float]:
        """A result and the wall time in seconds; transcripts and audio come back as NumPy, so a GPU is done then."""
        start = time.perf_counter()
        return function(), time.perf_counter() - start


def case_of(references: Iterable[str]) -> str:
    """ "upper" or "lower" where all references are of that case, else an empty string."""
    joined = " ".join(references)
    return "upper" if joined.isupper() else "lower" if joined.islower() else ""


def check_in_case(case: str, what: str, texts: Iterable[str | None]) -> None:
    """Raise :class:`TranscriptError` for a text of another case than that of all references, by :func:`case_of`.

    Words are compared with their case: each would count as an error, and nobody would see why.
    """
    wrong = next((text for text in texts if text and case and text != _in_case(case, text)), None)
    if wrong is not None:
        raise TranscriptError(f"expected a {what} in {case} case as the references, found {quoted(wrong)}")


def check_reference(estimator: Any, reference: str) -> None:
    """Raise :class:`TranscriptError` for a reference that the recogniser cannot write: each word would be its error.

    In any case of its letters, which :class:`Evaluation` looks at by itself. An estimator without ``encode`` and
    ``is_heard``, or whose own fail, does not tell.
    """
    encode, is_heard = (getattr(estimator, name, None) for name in ("encode", "is_heard"))
    if not (callable(encode) and callable(is_heard)):
        return
    text, why = " ".join(reference.split()), ""
    for written in dict.fromkeys((text, text.upper(), text.lower())):
        if len(written) != len(text):  # another letter, such as SS for the sharp s
            continue
        try:
            if is_heard(written, encode([written], 1)[0]):
                return
        except TranscriptError as error:
            why = why or f": {cause(error)}"
        except Exception:  # of a recogniser of others that knows no targets
            return
    raise TranscriptError(f"the recogniser cannot write its reference {quoted(reference)}{why}")


def _in_case(case: str, text: str) -> str:
    return text.upper() if case == "upper" else text.lower()


def _difference(x: np.ndarray, x_adv: Any) -> str:
    """In what the audio that an attack gave for ``x`` is no audio of that kind; empty if in nothing."""
    found = np.asarray(x_adv)
    if found.dtype != x.dtype:
        return f"{found.dtype} samples, expected {x.dtype}"
    if found.shape != x.shape:
        return f"audio of shape {found.shape}, expected {x.shape}"
    finite_samples = np.isfinite(found)
    if not finite_samples.all():
        at = int(np.argmin(finite_samples))
        return f"{found[at]} at sample {at}, expected finite samples"
    if (peak := float(np.abs(found).max(initial=0))) > MAX_ABSOLUTE:
        return f"samples as large as {peak:g}, expected full scale to be 1"
    return ""


def _spread(places: Sequence[int], values: Sequence[Any], n: int) -> list[Any]:
    """``n`` values: those given at their places, None elsewhere."""
    by_place = dict(zip(places, values, strict=True))
    return [by_place.get(i) for i in range(n)]
