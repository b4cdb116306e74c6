"""Sentences in the language of the prompts: random walks over the words of the training recordings.

No sentence of the sampler equals or contains a held-out sentence.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from armory_mdnf.errors import OptionError
from armory_mdnf.spoken import DIGITS

START, END = "<s>", "</s>"
MIN_WORDS, MAX_WORDS = 2, 16
_KEYS = frozenset((*DIGITS, "STAR", "POUND"))
_BEFORE_KEY = frozenset(("PRESS", "DIAL", "FOLDER", "OR"))
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class HeldOut:
    """The sentences that must not be heard in training."""

    def __init__(self, sentences: Iterable[str]) -> None:
        self._runs = sorted({f" {s} " for s in sentences if s})

    def is_in(self, sentence: str) -> bool:
        """True if a held-out sentence is, or is a run of words of, the sentence."""
        padded = f" {sentence} "
        return any(run in padded for run in self._runs)


class Sampler:
    """Draws sentences from trigram walks, with chance ``backoff`` to go on from the last word alone.

    ``transcripts`` are those of the training recordings. The same seed gives the same sentences.
    """

    def __init__(
        self, transcripts: Collection[str], held_out: Iterable[str] = (), seed: int = 0, backoff: float = 0.2
    ) -> None:
        if not transcripts:
            raise OptionError("expected transcripts to sample from, got none")
        if not 0 <= backoff <= 1:
            raise OptionError(f"expected backoff from 0 to 1, got {backoff}")
        self.held_out = HeldOut(held_out)
        self.backoff = backoff
        self.sentences = sorted({t for t in transcripts if t})
        self.vocabulary = sorted({w for t in self.sentences for w in t.split()})
        self._known = frozenset(self.vocabulary)
        self._in_phrases = (
            sorted({w for t in self.sentences if len(t.split()) > 2 for w in t.split()}) or self.vocabulary
        )
        self._rng = random.Random(seed)
        self._after: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
        self._before: defaultdict[str, list[str]] = defaultdict(list)
        for sentence in self.sentences:
            words = [START, *sentence.split(), END]
            for i in range(1, len(words)):
                self._after[tuple(words[max(0, i - 2) : i])].append(words[i])
                if i > 1:
                    self._after[(words[i - 1],)].append(words[i])
                self._before[words[i]].append(words[i - 1])
        self._after[(START,)] = [s.split()[0] for s in self.sentences if len(s.split()) > 1] or self.vocabulary

    def walk(self, first: Sequence[str] = (), max_words: int = MAX_WORDS) -> list[str]:
        """Go on from the words given, or from the start of a sentence, to an end of sentence or ``max_words``."""
        words = [START, *first] if not first else list(first)
        while len(words) <= max_words:
            context = tuple(words[-2:])
            if context not in self._after or (words[-1] != START and self._rng.random() < self.backoff):
                context = context[-1:]
            word = self._rng.choice(self._after[context])
            if word == END:
                break
            words.append(word)
        return [w for w in words if w != START][:max_words]

    def ends(self, words: Sequence[str]) -> bool:
        """True if a training sentence ends with the last two of these words."""
        return END in self._after.get(tuple(words[-2:]), ())

    def _around(self) -> list[str]:
        """A walk through a word chosen evenly from the vocabulary, so that no word stays rare."""
        words = [self._rng.choice(self._in_phrases if self._rng.random() < 0.7 else self.vocabulary)]
        for _ in range(self._rng.randrange(6)):
            word = self._rng.choice(self._before[words[0]])
            if word == START:
                break
            words.insert(0, word)
        return self.walk(words, self._rng.randint(4, MAX_WORDS))

    def _keyed(self) -> list[str]:
        """Digits, letters, numbers, dates and spelling words, as a telephone reads them out."""
        rng = self._rng
        kind = rng.randrange(5)
        if kind == 0:
            body = [rng.choice(DIGITS) for _ in range(rng.randint(2, 8))]
        elif kind == 1:
            body = [rng.choice(_LETTERS) for _ in range(rng.randint(2, 6))]
        elif kind == 2:
            body = [rng.choice(_LETTERS if rng.random() < 0.5 else DIGITS) for _ in range(rng.randint(3, 7))]
        elif kind == 3:
            body = [rng.choice(self.vocabulary) for _ in range(rng.randint(2, 6))]
        else:
            singles = [s for s in self.sentences if len(s.split()) <= 2]
            body = " ".join(rng.choice(singles or self.vocabulary) for _ in range(rng.randint(2, 5))).split()
        body = [w for w in body if w in self._known]
        if rng.random() < 0.5:
            body = self.walk(max_words=rng.randint(2, 6)) + body
        return body

    def _other_keys(self, words: list[str]) -> list[str]:
        """Menus number their choices as they like: swap some keys that are pressed or dialled."""
        known = [k for k in sorted(_KEYS) if k in self._known]
        return [
            self._rng.choice(known)
            if word in _KEYS and i and words[i - 1] in _BEFORE_KEY and known and self._rng.random() < 0.5
            else word
            for i, word in enumerate(words)
        ]

    def sample(self) -> str:
        """One sentence of 1 to 16 words (a single word only where it is a whole training sentence)."""
        while True:
            kind = self._rng.random()
            if kind < 0.1:
                words = self._rng.choice(self.sentences).split()
            elif kind < 0.2:
                words = self._keyed()
            elif kind < 0.55:
                words = self._around()
            else:
                words = self.walk()
            words = self._other_keys(words)
            if len(words) > MAX_WORDS or (len(words) < MIN_WORDS and kind >= 0.1):
                continue
            sentence = " ".join(words)
            if not self.held_out.is_in(sentence):
                return sentence

    def distinct(self, count: int) -> list[str]:
        """``count`` different sentences."""
        seen: dict[str, None] = {}
        for _ in range(100 * count):
            seen.setdefault(self.sample())
            if len(seen) == count:
                return list(seen)
        raise OptionError(f"expected {count} different sentences, the transcripts give about {len(seen)}")
