"""Which recordings are evaluated, which serve choices (dev), and which are trained on. Fixed by a seed.

The choice knows nothing about how hard a recording is: candidates come in random order and are taken unless they
break one of the rules of :func:`choose`.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from armory_mdnf.data.text import contains_run
from armory_mdnf.errors import OptionError
from armory_mdnf.training.corpora.prompts import Prompt

SEED = 35
NUM_EVAL = 64
NUM_DEV = 36
MIN_DURATION_S, MAX_DURATION_S = 1.5, 8.0
MIN_WORDS = 4


@dataclass(frozen=True)
class Splits:
    """Prompt names of each part. ``rare`` are the held-out sentences with a word in one training recording only."""

    eval: tuple[str, ...]
    dev: tuple[str, ...]
    train: tuple[str, ...]
    rare: tuple[str, ...]


def _is_candidate(group: Sequence[Prompt]) -> bool:
    words = len(group[0].transcript.split())
    return words >= MIN_WORDS and all(MIN_DURATION_S <= p.duration_s <= MAX_DURATION_S for p in group)


def _recordings_with_word(groups: Sequence[Sequence[Prompt]]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for group in groups:
        for word in set(group[0].transcript.split()):
            counts[word] += len(group)
    return counts


def choose(prompts: Sequence[Prompt], num_eval: int = NUM_EVAL, num_dev: int = NUM_DEV, seed: int = SEED) -> Splits:
    """Choose ``num_eval`` + ``num_dev`` recordings to hold out.

    1. A candidate is a whole recording of 1.5 to 8 s with at least 4 words. Recordings with the same words form a
       group that stays together.
    2. No other recording contains a held-out sentence as a run of words.
    3. Every word of a held-out sentence occurs in at least 2 training recordings; if that does not give enough
       sentences, a second pass accepts 1, and the sentences that need it are listed in ``rare``.

    Raises :class:`OptionError` if the rules do not leave enough recordings.
    """
    by_sentence: defaultdict[str, list[Prompt]] = defaultdict(list)
    for prompt in sorted(prompts, key=lambda p: p.id):
        by_sentence[prompt.transcript].append(prompt)
    rng = random.Random(seed)
    order = sorted(s for s, group in by_sentence.items() if _is_candidate(group))
    order = [s for s in order if not any(contains_run(other, s) for other in by_sentence if other != s)]
    rng.shuffle(order)

    counts = _recordings_with_word(list(by_sentence.values()))  # in what is left for training
    needed: dict[str, int] = {}  # word of a held-out sentence -> recordings it must keep
    held: list[str] = []
    total = num_eval + num_dev

    def size() -> int:
        return sum(len(by_sentence[s]) for s in held)

    for required in (2, 1):
        for sentence in order:
            group = by_sentence[sentence]
            if sentence in held or size() + len(group) > total:
                continue
            words = set(sentence.split())
            left = {word: counts[word] - len(group) for word in words}
            if all(left[w] >= min(required, needed.get(w, required)) for w in words):
                held.append(sentence)
                counts.update({w: -len(group) for w in words})
                needed.update({w: min(required, needed.get(w, required)) for w in words})
    if size() < total:
        raise OptionError(f"expected {total} recordings to hold out, the rules leave {size()}")

    rng.shuffle(held)
    held.sort(key=lambda s: -len(by_sentence[s]))  # groups first, so that single recordings fill eval exactly
    groups, singles = [s for s in held if len(by_sentence[s]) > 1], [s for s in held if len(by_sentence[s]) == 1]
    parts: dict[str, list[str]] = {"eval": [], "dev": []}
    room = {"eval": num_eval, "dev": num_dev}
    for sentence in groups + singles:
        ids = [p.id for p in by_sentence[sentence]]
        fits = [part for part in parts if room[part] >= len(ids)]
        part = rng.choices(fits, weights=[room[p] for p in fits])[0]
        parts[part] += ids
        room[part] -= len(ids)
    for ids in parts.values():
        rng.shuffle(ids)
    out = {*parts["eval"], *parts["dev"]}
    rare = [p.id for s in held if any(counts[w] < 2 for w in s.split()) for p in by_sentence[s]]
    train = [p.id for p in prompts if p.id not in out]
    return Splits(tuple(parts["eval"]), tuple(parts["dev"]), tuple(sorted(train)), tuple(sorted(rare)))
