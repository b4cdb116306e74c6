"""Curves of a rate against one option of the attack, as coordinates that a page draws."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from armory_mdnf.report.runs import Placed, defence_order

AXES = {
    "eps": "eps, full scale being 1",
    "snr_db": "SNR of the attack, dB",
    "max_iter": "iterations",
    "eot_draws": "draws whose gradients are averaged (EOT)",
}
FOLLOWS = ("eps_step",)  # is set by another option
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
    """A defence, its points from left to right, its dash pattern and its number, which chooses a marker."""

    label: str
    points: tuple[Point, ...]
    dash: str
    number: int


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
            value = kwargs.get(option)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                rest = {k: v for k, v in kwargs.items() if k not in (option, *FOLLOWS)}
                key = json.dumps([block.get("module"), block.get("name"), rest, _data(p)], sort_keys=True, default=str)
                groups[option, p.run.split, key][p.row][float(value)] = p
    charts = []
    for (option, split, _), rows in groups.items():
        rows = {row: points for row, points in rows.items() if len(points) > 1}
        if rows:
            charts.append(_chart(option, split, rows))
    return charts


def _data(p: Placed) -> Any:
    return (p.run.config.get("dataset") or {}).get("index")


def _chart(option: str, split: str, rows: Mapping[tuple[str, str], Mapping[float, Placed]]) -> Chart:
    values = sorted({value for points in rows.values() for value in points})
    rates = [p.attacked for points in rows.values() for p in points.values() if p.attacked]
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
        for value, p in sorted(rows[row].items()):
            assert p.attacked is not None
            rate = 100 * p.attacked.value
            bottom, upper = (rate if b is None else 100 * b for b in (p.attacked.low, p.attacked.high))
            aside = APART * (number - (len(rows) - 1) / 2)  # or bars of equal options hide each other
            points.append(Point(value, rate, bottom, upper, x(value) + aside, y(rate), y(bottom), y(upper)))
        lines.append(Line(f"{row[0]} ({row[1]})", tuple(points), DASHES[number % len(DASHES)], number))
    kinds = ", ".join(sorted({_without_value(p) for points in rows.values() for p in points.values()}))
    return Chart(
        f"WER under {kinds} against {option}, {split}",
        AXES[option],
        tuple(lines),
        tuple((x(value), f"{value:g}") for value in values),
        tuple((y(tick), f"{tick}") for tick in range(0, top + 1, 25)),
    )


def _without_value(p: Placed) -> str:
    """The attack's kind: the first word of its bound."""
    block = p.run.config.get("attack") or {}
    norm = str((block.get("kwargs") or {}).get("norm", ""))
    return f"{block.get('name')} {({'2': 'l2', 'inf': 'linf'}).get(norm, norm)}".strip()
