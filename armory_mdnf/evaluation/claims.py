"""The paper's fifteen claims, each as a rule on paired differences of word error rates.

A part of a claim is a difference of two cells that must be at least, more than, at most or within a number of points.
It holds if the whole 95 % interval of the difference does, fails if none of it does, and is undecided otherwise, as it
is where the interval says nothing: of fewer than ten utterances, and of no width because all moved alike. A claim
holds if all its parts do, and fails if one does. Where the paper says "little", "strong" or "parity" without a number,
the bound comes from its own tables: 3.7 and 46.4 points, and 1.8 to 4.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product

from armory_mdnf.evaluation.claim_runs import CW, STOCHASTIC, Table, is_untuned
from armory_mdnf.evaluation.identity import other_weights
from armory_mdnf.evaluation.paper import BENIGN, EXACT, PUBLISHED, number
from armory_mdnf.evaluation.rates import paired_counts
from armory_mdnf.evaluation.records import RunRecord, common_outcomes
from armory_mdnf.metrics.intervals import Interval, difference_interval

HOLDS, FAILS, UNDECIDED, MISSING = "holds", "does not hold", "undecided at this size", "not measured"
LITTLE = PARITY_TARGETED = MINOR = 5.0
STRONG = 20.0

Cell = tuple[str, str]
"""Defence and attack."""


@dataclass(frozen=True)
class Part:
    """The word error rate of ``first`` less that of ``second``, in points, and where it must lie.

    ``low`` and ``high``: the bounds; ``above``: more than ``low``, not just as much. ``paper``: the paper's two rates.
    """

    first: Cell
    second: Cell
    paper: tuple[float, float] | None
    low: float | None = None
    high: float | None = None
    above: bool = False


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper as numbers."""

    number: int
    text: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Found:
    """What was found of a part: both rates (fractions) on the utterances of both, their difference, the verdict.

    ``untuned``: the defences of it that are before a recogniser which was not fine-tuned for them.
    """

    part: Part
    verdict: str
    rates: tuple[float, float] | None = None
    difference: Interval | None = None
    why: str = ""
    untuned: Sequence[str] = ()


@dataclass(frozen=True)
class Verdict:
    """What was found of a claim."""

    claim: Claim
    verdict: str
    parts: Sequence[Found] = field(default=())


def _parts(
    differences: Iterable[tuple[Cell, Cell]], tables: Sequence[str] = ("2", "3", "text"), **bounds: object
) -> tuple[Part, ...]:
    """Differences with the paper's numbers, from the first of its tables that has each."""
    made = []
    for pair in differences:
        first, second = (number(ROWS.get(row, row), COLUMNS.get(column, column), tables) for row, column in pair)
        paper = None if first is None or second is None else (first, second)
        made.append(Part(*pair, paper, **bounds))  # type: ignore[arg-type]
    return tuple(made)


def _order(threat: str, systems: Sequence[str]) -> tuple[Part, ...]:
    """Each defence above the next one."""
    return _parts((((a, threat), (b, threat)) for a, b in pairwise(systems)), low=0.0, above=True)


def _against(first: str, second: str, *threats: str, **bounds: object) -> tuple[Part, ...]:
    return _parts((((first, t), (second, t)) for t in threats), **bounds)  # type: ignore[arg-type]


MG, FLOODED, FLAT, WG = "MG", "MG-MDNF", "MG-MDNF flat", "WG"
L2, L2_SMALL, LINF, LINF_SMALL = "l2 1.5", "l2 0.5", "linf 0.01", "linf 0.005"
ROWS = {FLAT: "MG-MDNF with flat noise"}
COLUMNS = {f"{L2} EOT 5": "EOT-5 at l2 1.5"}
"""What the paper's tables call them, where it is something else."""
UNTARGETED = (BENIGN, L2, "l2 1", L2_SMALL, LINF, LINF_SMALL)
LONGER = tuple(f"{L2} of {n} iterations" for n in (250, 500))
CELLS: tuple[Cell, ...] = (
    *product(("none", "RS", MG, FLOODED), (*UNTARGETED, "20 dB", "30 dB", "40 dB", CW)),
    *((FLOODED, threat) for threat in (f"{L2} EOT 5", *LONGER)),
    *product((FLAT,), (L2, LINF)),
    *product((WG, "WG-MDNF"), UNTARGETED),
)
"""The cells of the paper's Tables 2, 3 and 4 and of its ablations, each once."""
CLAIMS = (
    Claim(1, f"MG alone helps little at l2 1.5: by {LITTLE:g} points at most", _against("none", MG, L2, high=LITTLE)),
    Claim(2, "MG-MDNF beats MG by 20 points or more at l2 1.5", _against(MG, FLOODED, L2, low=20.0)),
    Claim(3, "MG-MDNF beats MG by 20 points or more at linf 0.01", _against(MG, FLOODED, LINF, low=20.0)),
    Claim(4, "MG-MDNF beats RS by 10 points or more at l2 1.5, by 15 at linf 0.01",
          _against("RS", FLOODED, L2, low=10.0) + _against("RS", FLOODED, LINF, low=15.0)),
    Claim(5, "parity of MG-MDNF and RS, within 3 points, at l2 0.5 and linf 0.005",
          _against("RS", FLOODED, L2_SMALL, LINF_SMALL, low=-3.0, high=3.0)),
    Claim(6, "MG-MDNF costs 6 points or less where nobody attacks", _against(FLOODED, "none", BENIGN, high=6.0)),
    Claim(7, "EOT of 5 draws raises MG-MDNF's error rate, which stays below MG's",
          _parts([((FLOODED, f"{L2} EOT 5"), (FLOODED, L2)), ((MG, L2), (FLOODED, f"{L2} EOT 5"))],
                 low=0.0, above=True)),
    Claim(8, "targeted at 20 dB: no defence > MG > RS > MG-MDNF", _order("20 dB", ("none", MG, "RS", FLOODED))),
    Claim(9, f"parity of MG-MDNF and RS, within {PARITY_TARGETED:g} points, targeted at 30 and 40 dB",
          _against("RS", FLOODED, "30 dB", "40 dB", low=-PARITY_TARGETED, high=PARITY_TARGETED)),
    Claim(10, f"WG alone is strong: {STRONG:g} points or more at l2 1.5",
          _against("none", WG, L2, tables=("4",), low=STRONG)),
    Claim(11, "WG-MDNF is as WG, within 2 points, at l2 1.5 and linf 0.01",
          _against("WG-MDNF", WG, L2, LINF, tables=("4",), low=-2.0, high=2.0)),
    Claim(12, "WG costs more than MG where nobody attacks",
          _parts([((WG, BENIGN), (MG, BENIGN))], ("4", "2"), low=0.0, above=True)),
    Claim(13, "the curve beats flat noise at l2 1.5", _against(FLAT, FLOODED, L2, low=0.0, above=True)),
    Claim(14, "flat noise beats the curve at linf 0.01", _against(FLOODED, FLAT, LINF, low=0.0, above=True)),
    Claim(15, f"250 and 500 iterations change little: {MINOR:g} points at most",
          _parts((((FLOODED, threat), (FLOODED, L2)) for threat in LONGER), low=-MINOR, high=MINOR)),
)  # fmt: skip


def judge(table: Table, gradient: str = EXACT) -> list[Verdict]:
    """A verdict of each claim on one ground, stochastic defences attacked by one gradient.

    By the published one those are left out that attack no defence's noise: for them the two are one.
    """
    return [_judge(claim, table, gradient) for claim in CLAIMS if gradient == EXACT or _attacks_noise(claim)]


def _attacks_noise(claim: Claim) -> bool:
    cells = (cell for part in claim.parts for cell in (part.first, part.second))
    return any(system in STOCHASTIC and threat != BENIGN for system, threat in cells)


def has_published(table: Table) -> bool:
    """Whether a run of the ground followed the published gradient."""
    return any(gradient == PUBLISHED for _, _, gradient in table)


def without_run(table: Table) -> list[Cell]:
    """The :data:`CELLS` that no run of the ground is of, by either gradient."""
    return [cell for cell in CELLS if not any(_candidates(cell, table, gradient) for gradient in (EXACT, PUBLISHED))]


def _judge(claim: Claim, table: Table, gradient: str) -> Verdict:
    parts = [_find(part, table, gradient) for part in claim.parts]
    verdicts = {found.verdict for found in parts}
    return Verdict(claim, next((v for v in (FAILS, MISSING, UNDECIDED) if v in verdicts), HOLDS), parts)


def _find(part: Part, table: Table, gradient: str) -> Found:
    first, second = (_candidates(cell, table, gradient) for cell in (part.first, part.second))
    for cell, runs in ((part.first, first), (part.second, second)):
        if not runs:
            return Found(part, MISSING, why=f"no run of {cell[0]}, {cell[1]}")
    pairs = [(common_outcomes(a, b), a, b) for a in first for b in second]
    alike = [pair for pair in pairs if not other_weights(pair[1].weights, pair[2].weights)]
    common, *both = max(alike or pairs, key=lambda pair: len(pair[0]))
    if other := other_weights(both[0].weights, both[1].weights):
        return Found(part, MISSING, why=f"the two have other weights of {other}")
    first_side, second_side = (BENIGN if threat == BENIGN else "adversarial" for _, threat in (part.first, part.second))
    counts = paired_counts(common, (first_side, second_side))
    if not sum(c.reference_words for c in counts[0]):
        return Found(part, MISSING, why="the two have no utterances in common that can be told apart")
    difference = difference_interval(counts[0], counts[1])
    rates = [sum(c.errors for c in found) / sum(c.reference_words for c in found) for found in counts]
    systems = zip((part.first[0], part.second[0]), both, strict=True)
    untuned = tuple(dict.fromkeys(system for system, run in systems if is_untuned(run)))
    return Found(part, verdict_of(part, difference), (rates[0], rates[1]), difference, untuned=untuned)


def verdict_of(part: Part, difference: Interval) -> str:
    """Whether a difference with its interval (fractions) is where a part says that it must be."""
    if difference.deciding is None:
        return UNDECIDED
    # Bounds that are met exactly are met, whatever fractions round to.
    low, high = (round(100 * bound, 6) for bound in difference.deciding)
    lowest = -float("inf") if part.low is None else part.low
    highest = float("inf") if part.high is None else part.high
    if (low > lowest if part.above else low >= lowest) and high <= highest:
        return HOLDS
    if (high <= lowest if part.above else high < lowest) or low > highest:
        return FAILS
    return UNDECIDED


def _candidates(cell: Cell, table: Table, gradient: str) -> list[RunRecord]:
    """The run of a cell; without an attack, every run of the defence that heard its utterances unattacked.

    Those before a recogniser that was not fine-tuned for it count where there are no others.
    """
    system, threat = cell
    if threat == BENIGN:
        found = [r for (s, _, _), r in table.items() if s == system and r.counts(BENIGN) is not None]
        return [r for r in found if not is_untuned(r)] or found
    wanted = gradient if system in STOCHASTIC else EXACT
    run = table.get((system, threat, wanted))
    return [run] if run is not None else []
