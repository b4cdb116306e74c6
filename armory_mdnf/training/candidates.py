"""Candidate sentences for the synthetic splits: new sentences in the prompts' language that are whole phrases.

Not every one makes sense. The ones that do were picked by reading them and lie in
``recipes/synthetic_sentences.txt``, from which the splits are made.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from itertools import pairwise

from armory_mdnf.data.text import contains_run
from armory_mdnf.spoken import DIGITS
from armory_mdnf.training.corpora.sentences import Sampler

MIN_WORDS, MAX_WORDS = 4, 12
_KEYS = (*DIGITS, "STAR", "POUND")


def _offers(sentences: Collection[str]) -> list[str]:
    """What a menu offers: the ``TO ...`` and ``FOR ...`` after a key, up to the next key."""
    found = set()
    for sentence in sentences:
        words = sentence.split()
        for i, word in enumerate(words[:-2]):
            if word not in _KEYS or words[i + 1] not in ("TO", "FOR"):
                continue
            end = i + 2
            while end < len(words) and words[end] not in (*_KEYS, "PRESS", "DIAL", "OR", "PLEASE", "IF", "WHEN"):
                end += 1
            if end - i > 3:
                found.add(" ".join(words[i + 1 : end]))
    return sorted(found)


def _drawn(sampler: Sampler, rng: random.Random) -> Iterator[str]:
    offers = _offers(sampler.sentences)
    short = [s for s in sampler.sentences if 2 <= len(s.split()) <= 7]
    while True:
        key, other = rng.sample(_KEYS, 2)
        first, second = rng.sample(offers, 2)
        yield f"PRESS {key} {first}"
        yield f"{first} PRESS {key}"
        yield f"PRESS {key} {first} OR {other} {second}"
        yield " ".join(rng.sample(short, 2))
        for _ in range(6):
            words = sampler.walk(max_words=MAX_WORDS + 1)
            if sampler.ends(words):
                yield " ".join(words)


def draw(sampler: Sampler, count: int, seed: int = 7) -> list[str]:
    """``count`` different sentences of 4 to 12 words that no training sentence and no other of them contains.

    No pair of words and no longer word comes twice in one of them.
    """
    taken: list[str] = []
    for sentence in _drawn(sampler, random.Random(seed)):
        if len(taken) == count:
            break
        words = sentence.split()
        pairs = list(pairwise(words))
        longer = [w for w in words if len(w) > 4]
        if not MIN_WORDS <= len(words) <= MAX_WORDS or len(set(pairs)) < len(pairs) or len(set(longer)) < len(longer):
            continue
        if sampler.held_out.is_in(sentence) or any(contains_run(s, sentence) for s in sampler.sentences):
            continue
        if not any(contains_run(s, sentence) or contains_run(sentence, s) for s in taken):
            taken.append(sentence)
    return taken
