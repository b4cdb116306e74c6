"""Figures of error rates with their intervals, through matplotlib."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from armory_mdnf.console import printable
from armory_mdnf.errors import OptionError, choices
from armory_mdnf.evaluation.findings import headline, headline_rows
from armory_mdnf.evaluation.noise_sensitivity import COSINES, Sensitivity, sensitivity_table, trained
from armory_mdnf.evaluation.records import RunRecord
from armory_mdnf.files.atomic import replacing
from armory_mdnf.metrics.intervals import Interval
from armory_mdnf.report.charts import Chart
from armory_mdnf.report.runs import Placed, cell, columns_of, rows_of

FORMATS = (".pdf", ".png", ".svg")
# A colour-blind-safe order (Okabe and Ito), and a marker for each, so that no defence is told by its colour alone.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
PAPER = "paper (LibriSpeech)"
AXIS = "WER, % (95 % interval)"


def check_format(path: str | os.PathLike[str]) -> None:
    """Raise :class:`OptionError` for a file's name that does not say how it is to be written."""
    if Path(path).suffix.lower() not in FORMATS:
        raise OptionError(choices(Path(path).suffix, FORMATS, f"format of {Path(path).name}"))


def draw(path: str | os.PathLike[str], placed: Sequence[Placed], title: str = "") -> None:
    """Write a figure, atomically: a panel per split, threats side by side, a point with its interval per defence.

    Dashes are the paper's numbers. The same runs give the same SVG. Raises :class:`OptionError` without matplotlib.
    """
    splits = list(dict.fromkeys(p.run.split for p in placed))
    widest = max(len(columns_of([p for p in placed if p.run.split == split])) for split in splits)
    rows = rows_of(placed)
    with _figure(path, max(6.0, 1.1 * widest + 1.5), 3.6 * len(splits) + 0.5) as figure:
        axes = figure.subplots(len(splits), squeeze=False)[:, 0]
        for axis, split in zip(axes, splits, strict=True):
            _panel(axis, [p for p in placed if p.run.split == split], rows, split)
        handles = {
            label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4, fontsize="small")
        if title:
            figure.suptitle(title)


def draw_headline(path: str | os.PathLike[str], runs: Sequence[RunRecord], title: str = "") -> None:
    """Write the README's table as a figure: a panel per recogniser, a line per defence, its cost and what it leaves.

    An SVG's description has the same numbers as text. Raises :class:`OptionError` without matplotlib,
    :class:`ResultsError` for a run that is missing.
    """
    rows = headline_rows(runs)
    panels = [(heard, list(group)) for heard, group in itertools.groupby(rows, lambda row: row.heard)]
    with _figure(path, 8.0, 0.34 * len(rows) + 0.5 * len(panels) + 1.0, headline(rows)) as figure:
        heights = {"height_ratios": [len(group) for _, group in panels]}
        axes = figure.subplots(len(panels), sharex=True, squeeze=False, gridspec_kw=heights)[:, 0]
        for axis, (heard, group) in zip(axes, panels, strict=True):
            places = range(len(group))[::-1]  # the first on top
            for column, label in enumerate(("nobody attacks", "under attack")):
                rates = [row.rates[column] for row in group]
                xs = [100 * rate.value for rate in rates]
                look = {"color": COLOURS[column], "marker": MARKERS[column], "linestyle": "none", "capsize": 3}
                axis.errorbar(xs, places, xerr=_bars(rates), label=label, **look)
            axis.set_yticks(places, [f"{row.title} (n = {row.utterances})" for row in group])
            axis.set_ylim(-0.6, len(group) - 0.4)
            axis.set_title(heard, loc="left", fontsize="small")
            axis.grid(axis="x", linewidth=0.5, alpha=0.5)
        axes[-1].set_xlim(left=0)  # of all, and last: what is drawn after a limit was set does not move it
        axes[-1].set_xlabel(AXIS)
        figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=2, fontsize="small", frameon=False
        )
        if title:
            figure.suptitle(title, fontsize="medium")


def draw_curves(path: str | os.PathLike[str], charts: Sequence[Chart], title: str = "") -> None:
    """Write rates against an option of the attack: a panel per option and kind of attack, a line with its band per row.

    Raises :class:`OptionError` where there is no chart, and without matplotlib.
    """
    if not charts:
        raise OptionError("no curve: expected runs that differ in eps, SNR, iterations or draws alone")
    with _figure(path, 6.5, 3.4 * len(charts) + 0.5) as figure:
        for axis, chart in zip(figure.subplots(len(charts), squeeze=False)[:, 0], charts, strict=True):
            looks = itertools.cycle(zip(COLOURS, MARKERS, strict=True))
            for line, (colour, marker) in zip(chart.lines, looks, strict=False):
                xs = [point.value for point in line.points]
                bounds = [[getattr(point, end) for point in line.points] for end in ("low", "high")]
                label = _in_legend(f"{line.label}, n = {line.utterances}")
                axis.plot(xs, [point.rate for point in line.points], color=colour, marker=marker, label=label)
                axis.fill_between(xs, *bounds, color=colour, alpha=0.15, linewidth=0)
            axis.set_title(printable(chart.title), loc="left", fontsize="small")
            axis.set_xlabel(chart.axis)
            axis.set_ylabel(AXIS)
            axis.set_ylim(bottom=0)
            axis.grid(linewidth=0.5, alpha=0.5)
            axis.legend(fontsize="small")
        if title:
            figure.suptitle(title, fontsize="medium")


def draw_sensitivities(path: str | os.PathLike[str], rows: Sequence[Sensitivity], title: str = "") -> None:
    """Write how vocoders pass MDNF's noise on: a panel per cosine, a line per training, dashes for finished vocoders.

    An SVG's description has the same numbers as text. Raises :class:`OptionError` without matplotlib.
    """
    finished = [row for row in rows if row.step is None]
    with _figure(path, 9.0, 3.4, sensitivity_table(rows)) as figure:
        panels = figure.subplots(1, len(COSINES), sharey=True)
        for number, (axis, name) in enumerate(zip(panels, COSINES.values(), strict=True)):
            looks = itertools.cycle(zip(COLOURS, MARKERS, itertools.cycle(("--", ":", "-.")), strict=False))
            for (vocoder, steps), (colour, marker, _) in zip(trained(rows).items(), looks, strict=False):
                xs, ys = [row.step for row in steps], [row.cosines[number] for row in steps]
                axis.plot(xs, ys, color=colour, marker=marker, label=f"{vocoder}, as it learns")
            for row, (colour, _, dashes) in zip(finished, looks, strict=False):
                axis.axhline(row.cosines[number], color=colour, linestyle=dashes, label=f"{row.vocoder}, finished")
            axis.set_title(name, loc="left", fontsize="medium")
            axis.set_xlabel("training step")
            axis.grid(linewidth=0.5, alpha=0.5)
        panels[0].set_ylabel("cosine of two draws")
        panels[0].set_ylim(-0.2, 1.05)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize="small")
        if title:
            figure.suptitle(title, fontsize="medium")


@contextmanager
def _figure(path: str | os.PathLike[str], width: float, height: float, words: str = "") -> Iterator[Any]:
    """A figure of so many inches, written atomically in the end; the same drawing gives the same SVG.

    ``words`` describe it, inside an SVG.
    """
    check_format(path)
    try:
        import matplotlib
    except ImportError as error:
        raise OptionError("a figure needs matplotlib: pip install 'armory-mdnf[plot]'") from error
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Names come from files: a dollar in them begins no formula.
    with matplotlib.rc_context({"svg.hashsalt": "armory-mdnf", "svg.fonttype": "none", "text.parse_math": False}):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        with replacing(path) as partial:
            figure.savefig(partial, dpi=150, metadata=_metadata(partial.suffix.lower(), words))


def _metadata(suffix: str, words: str) -> dict[str, str | None]:
    if suffix == ".png":
        return {}
    if suffix == ".pdf":
        return {"CreationDate": None}
    return {"Date": None} | ({"Description": words} if words else {})


def _bars(rates: Sequence[Interval]) -> list[list[float]]:
    """How far the intervals reach below and above their values, in percent; 0 where there is no bound."""
    below = [100 * (rate.value - (rate.value if rate.low is None else rate.low)) for rate in rates]
    above = [100 * ((rate.value if rate.high is None else rate.high) - rate.value) for rate in rates]
    return [below, above]


def _in_legend(label: str) -> str:
    """A label that a legend shows and an SVG may hold.

    matplotlib leaves out one that begins with "_": a space of no width goes before it.
    """
    return printable(f"\u200b{label}" if label.startswith("_") else label, keep="\u200b")


def _panel(axis: Any, placed: Sequence[Placed], rows: Sequence[tuple[str, str]], split: str) -> None:
    columns = columns_of(placed)
    for place in range(1, len(columns), 2):  # which points belong to which threat
        axis.axvspan(place - 0.5, place + 0.5, color="0.95", zorder=0)
    width = 0.8 / len(rows)
    for number, row in enumerate(rows):
        points: list[tuple[float, Interval, float | None]] = []
        for place, column in enumerate(columns):
            found = cell(placed, row, column)
            x = place + width * (number - (len(rows) - 1) / 2)
            points += [(x, rate, p.paper if p.threat.label == column else None) for p, rate in found]
        if not points:
            continue
        values = [100 * rate.value for _, rate, _ in points]
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        xs = [x for x, _, _ in points]
        label = _in_legend(f"{row[0]} ({row[1]})")
        bars = _bars([rate for _, rate, _ in points])
        axis.errorbar(xs, values, bars, fmt=marker, color=colour, capsize=2, markersize=5, label=label)
        published = [(x, paper) for x, _, paper in points if paper is not None]
        if published:
            axis.scatter(*zip(*published, strict=True), marker="_", s=60, color="#666666", zorder=3, label=PAPER)
    axis.set_xticks(range(len(columns)), [printable(column).replace(", ", ",\n") for column in columns])
    axis.set_xlim(-0.5, len(columns) - 0.5)
    axis.set_ylim(bottom=0)
    axis.grid(axis="y", linewidth=0.5, alpha=0.5)
    axis.set_ylabel(AXIS)
    axis.set_title(printable(split), loc="left", fontsize="medium")
