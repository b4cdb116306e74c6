"""Curves of a rate against one option of the attack, as coordinates that a page draws."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from armory_mdnf.evaluation.names import attack_name, block_of
from armory_mdnf.evaluation.paper import EXACT, gradient_of, norm_of
from armory_mdnf.evaluation.records import as_number
from armory_mdnf.metrics.intervals import Interval, wer_interval
from armory_mdnf.metrics.wer import WordCounts
from armory_mdnf.report.runs import Key, Placed, attacked_counts, data_name, defence_order, have_ids

AXES = {
    "eps": "eps",
    "snr_db": "SNR of the attack, dB",
    "max_iter": "iterations",
    "eot_draws": "draws whose gradients are averaged (EOT)",
}
EPS = {
    "l2": "eps, full scale being 1",
    "linf": "eps, full scale being 1",
    "snr": "eps, the power ratio of speech to perturbation",
    "snr_db": "eps, SNR of the attack, dB",
}
"""What eps is, by the norm: Armory's SNR attack takes no amplitude."""
FOLLOWS = ("eps_step",)  # is set by another option
LABELS = ("use_label", "targeted", "targeted_labels")  # beside the options, what an attack goes away from or towards
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 560, 300, 52, 44, 12, 12
APART = 4.0
DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 2", "10 4")


@dataclass(frozen=True)
class Point:
    """A value with its interval, and where they are drawn."""

    value: float
    rate: float
    low: float
    high: float
    x: float = 0.0
    y: float = 0.0
    y_low: float = 0.0
    y_high: float = 0.0


@dataclass(frozen=True)
class Line:
    """A defence, its points from left to right, its dash pattern and its number, which chooses a marker.

    ``utterances``: how many each point is of, the same ones.
    """

    label: str
    points: tuple[Point, ...]
    dash: str
    number: int
    utterances: int


@dataclass(frozen=True)
class Chart:
    """Lines over one axis; ticks are pairs of a position and a text."""

    title: str
    axis: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    width: int = field(default=WIDTH)
    height: int = field(default=HEIGHT)


def sweeps(placed: Sequence[Placed]) -> list[Chart]:
    """A chart for every option that takes several values, all else of the attack and the data being equal."""
    groups: dict[tuple[str, str, str], dict[tuple[str, str], dict[float, Placed]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for p in placed:
        if p.attacked is None:
            continue
        block = p.run.config.get("attack") or {}
        kwargs = block.get("kwargs") or {}
        for option in AXES:
            value = as_number(kwargs.get(option, 1 if option == "eot_draws" and _averages(block) else None))
            if value is not None:
                rest = {k: v for k, v in kwargs.items() if k not in (option, *FOLLOWS)}
                labels = [block.get(key) for key in LABELS]
                attack = [block.get("module"), block.get("name"), rest, labels, gradient_of(p.run.config)]
                found = groups[option, p.run.split, json.dumps(attack, sort_keys=True, default=str)][p.row]
                if value not in found or len(found[value].run.outcomes) < len(p.run.outcomes):
                    found[value] = p
    charts = []
    for (option, split, _), rows in groups.items():
        curves = {row: curve for row, points in rows.items() if (curve := _rates(points))}
        if curves:
            drawn = [p for row in curves for p in rows[row].values()]
            kinds = ", ".join(sorted({_without_value(p) for p in drawn}))
            title = f"WER under {kinds} against {option}, {data_name(split)}"
            charts.append(_chart(title, _axis(option, drawn[0]), curves))
    return charts


def _averages(block: Mapping[str, Any]) -> bool:
    """Whether an attack that names no number of draws takes one: this package's, of which the others know none."""
    return (block.get("module"), block.get("name")) == ("armory_mdnf.attacks", "PGD")


def _rates(points: Mapping[float, Placed]) -> dict[float, Interval]:
    """Rates by value, over the utterances that all of its runs attacked; empty where that gives no curve."""
    by_id = have_ids(points.values())
    counts = {value: attacked_counts(p, by_id) for value, p in points.items()}
    shared = set.intersection(*(set(found) for found in counts.values()))
    if len(points) < 2 or not any(c.reference_words for c in (next(iter(counts.values()))[key] for key in shared)):
        return {}
    return {value: _rate(points[value], found, shared) for value, found in sorted(counts.items())}


def _rate(p: Placed, counts: Mapping[Key, WordCounts], shared: set[Key]) -> Interval:
    if p.attacked is not None and len(shared) == len(counts):
        return p.attacked
    return wer_interval([c for key, c in counts.items() if key in shared])


def _axis(option: str, p: Placed) -> str:
    norm = norm_of(block_of(p.run.config, "attack"))
    return EPS.get(norm, AXES[option]) if option == "eps" else AXES[option]


def _chart(title: str, axis: str, rows: Mapping[tuple[str, str], Mapping[float, Interval]]) -> Chart:
    values = sorted({value for points in rows.values() for value in points})
    rates = [rate for points in rows.values() for rate in points.values()]
    most = max(100.0, *(100 * (i.high if i.high is not None else i.value) for i in rates))
    top = 25 * math.ceil(most / 25)
    low, high = values[0], values[-1]

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (0.04 + 0.92 * (value - low) / (high - low))

    def y(rate: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - rate / top)

    lines = []
    for number, row in enumerate(sorted(rows, key=lambda row: (defence_order(row[0]), row))):
        points = []
        for value, found in sorted(rows[row].items()):
            rate = 100 * found.value
            bottom, upper = (rate if b is None else 100 * b for b in (found.low, found.high))
            aside = APART * (number - (len(rows) - 1) / 2)  # or bars of equal options hide each other
            points.append(Point(value, rate, bottom, upper, x(value) + aside, y(rate), y(bottom), y(upper)))
        n = next(iter(rows[row].values())).utterances
        lines.append(Line(f"{row[0]} ({row[1]})", tuple(points), DASHES[number % len(DASHES)], number, n))
    return Chart(
        title,
        axis,
        tuple(lines),
        tuple((x(value), f"{value:g}") for value in values),
        tuple((y(tick), f"{tick}") for tick in range(0, top + 1, 25)),
    )


def _without_value(p: Placed) -> str:
    """The attack's kind: the first word of its bound, its label and its gradient where they are not the usual ones."""
    block = block_of(p.run.config, "attack")
    kind = f"{attack_name(block)} {norm_of(block)}".strip() + (" by what was said" if block.get("use_label") else "")
    gradient = gradient_of(p.run.config)
    return kind if gradient == EXACT else f"{kind} ({gradient} gradient)"
