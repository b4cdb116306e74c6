"""The noise curves of the page's defences: how much of the noise each mel bin gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from armory_mdnf.errors import ArmoryMdnfError
from armory_mdnf.evaluation.names import block_of, defence_label
from armory_mdnf.report.charts import BOTTOM, DASHES, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Chart, Line, Point
from armory_mdnf.report.runs import Placed

TICKS = 4


def noise_curves(placed: Sequence[Placed]) -> list[Chart]:
    """One chart of every curve that the runs' defences name and that is on this machine; no chart where there is none.

    The height is a bin's factor by the curve's mean: at 1 a bin gets what flat noise gives it. That is what the
    normalisation of the noise leaves of a curve's scale.
    """
    found: dict[str, list[float]] = {}
    users: dict[str, set[str]] = {}
    for p in placed:
        name = block_of(block_of(p.run.config, "defense"), "kwargs").get("curve")
        kind = defence_label(p.run.config)
        if not isinstance(name, str) or not kind.endswith("MDNF"):
            continue
        users.setdefault(name, set()).add(kind)
        if name not in found:
            try:
                values = _curve(name)
            except (ArmoryMdnfError, OSError):  # a file of another machine
                continue
            mean = sum(values) / len(values)
            found[name] = [value / mean for value in values]
    curves = {f"{name} ({', '.join(sorted(users[name]))})": values for name, values in sorted(found.items())}
    return [_chart(curves)] if curves else []


def _curve(name: str) -> list[float]:
    from armory_mdnf.defenses.curves import curve_file, read_curve  # torch, which a page without curves needs not

    return list(read_curve(curve_file(name)).tolist())


def _chart(curves: Mapping[str, Sequence[float]]) -> Chart:
    bins = max(map(len, curves.values()))
    top = max(1.0, *(max(values) for values in curves.values()))

    def x(number: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * number / max(1, bins - 1)

    def y(factor: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - factor / top)

    lines = []
    for number, (label, values) in enumerate(curves.items()):
        points = [Point(i, value, value, value, x(i), y(value), y(value), y(value)) for i, value in enumerate(values)]
        lines.append(Line(label, tuple(points), DASHES[number % len(DASHES)], number, len(values)))
    ticks: list[Any] = [round(i * (bins - 1) / TICKS) for i in range(TICKS + 1)]
    heights = [top * i / TICKS for i in range(TICKS + 1)]
    return Chart(
        "Noise per mel bin, the mean being 1",
        "mel bin, low frequencies first",
        tuple(lines),
        tuple((x(i), f"{i + 1}") for i in ticks),
        tuple((y(height), f"{height:.1f}") for height in heights),
    )
