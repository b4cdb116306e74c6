"""The figure of recorded runs."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from armory_mdnf import cli
from armory_mdnf.errors import OptionError
from armory_mdnf.evaluation.noise_sensitivity import read_sensitivities, trained
from armory_mdnf.evaluation.records import read_record, results_files
from armory_mdnf.metrics.intervals import Interval
from armory_mdnf.report import charts, figure, runs

RESULTS = Path(__file__).parents[1] / "results"
matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed (the extra plot)")


def test_the_figure_has_every_defence_and_threat(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "wer.svg"
    assert cli.main(["plot", str(RESULTS), "-o", str(out), "--split", "human", "--title", "A title"]) == 0
    assert capsys.readouterr().out.startswith(f"{out}: ")
    root = ElementTree.fromstring(out.read_text())
    texts = {"".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")}
    placed = [p for p in runs.read_runs([RESULTS]) if p.run.split == "human"]
    assert {f"{p.defence} ({p.run.recognizer})" for p in placed} <= texts
    # The labels of the columns are broken into lines.
    assert {part for p in placed for part in p.threat.label.replace(", ", ",\n").split("\n")} <= texts
    assert {"A title", "human", figure.PAPER} <= texts
    assert "synthetic" not in texts


def test_points_are_the_rates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from matplotlib.axes import Axes

    drawn: dict[str, Any] = {}
    original = Axes.errorbar

    def errorbar(self: Any, x: Any, y: Any, bounds: Any, **options: Any) -> Any:
        drawn[options["label"]] = (y, bounds)
        return original(self, x, y, bounds, **options)

    monkeypatch.setattr(Axes, "errorbar", errorbar)
    placed = runs.read_runs([RESULTS / "human" / "none_pgd_l2.json", RESULTS / "human" / "none_benign.json"])
    figure.draw(tmp_path / "x.png", placed)
    values, (below, above) = drawn["NO DEFENCE (ds2_base)"]
    rates = [p.rate for p in placed]
    for rate, value, low, high in zip(rates, values, below, above, strict=True):
        assert rate is not None
        assert rate.low is not None
        assert rate.high is not None
        assert value == pytest.approx(100 * rate.value)
        assert (value - low, value + high) == (pytest.approx(100 * rate.low), pytest.approx(100 * rate.high))


def test_the_curves_are_those_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from matplotlib.axes import Axes

    drawn: list[tuple[Any, Any]] = []
    original = Axes.fill_between

    def fill_between(self: Any, x: Any, low: Any, high: Any, **options: Any) -> Any:
        drawn.append((x, list(zip(low, high, strict=True))))
        return original(self, x, low, high, **options)

    monkeypatch.setattr(Axes, "fill_between", fill_between)
    assert cli.main(["plot", str(RESULTS), "--split", "human", "--curves", "-o", str(tmp_path / "x.png")]) == 0
    made = charts.sweeps([p for p in runs.read_runs([RESULTS]) if p.run.split == "human"])
    lines = [line for chart in made for line in chart.lines]
    assert len(lines) > 5
    assert drawn == [([p.value for p in line.points], [(p.low, p.high) for p in line.points]) for line in lines]
    alone = str(RESULTS / "human" / "rs_pgd_l2.json")
    assert cli.main(["plot", alone, "--curves", "-o", str(tmp_path / "y.png")]) == 2
    assert "no curve: expected runs that differ in" in capsys.readouterr().err


def test_the_same_runs_give_the_same_svg(tmp_path: Path) -> None:
    placed = runs.read_runs([RESULTS / "synthetic"])
    for name in ("a.svg", "b.svg"):
        figure.draw(tmp_path / name, placed)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_the_readmes_figure_is_that_of_the_records(tmp_path: Path) -> None:
    """By the numbers inside, for the drawing hangs on matplotlib's version."""
    out = tmp_path / "headline.svg"
    assert cli.main(["plot", str(RESULTS), "--headline", "-o", str(out)]) == 0
    made, kept = (described(path) for path in (out, RESULTS.parent / "docs" / "figures" / "headline.svg"))
    assert made == kept, "run `make tables`"
    assert made in (RESULTS.parent / "README.md").read_text()
    drawn = out.read_text()
    assert all(row.split(" | ")[0].strip("| ") in drawn for row in made.splitlines()[2:])


def test_the_figure_of_the_noise_sensitivity_is_that_of_the_logs(tmp_path: Path) -> None:
    out = tmp_path / "cosines.svg"
    assert cli.main(["plot", "--sensitivity", "-o", str(out)]) == 0
    made, kept = (described(path) for path in (out, RESULTS.parent / "docs" / "figures" / "noise_sensitivity.svg"))
    assert made == kept, "run `make tables`"
    assert made in (RESULTS.parent / "docs" / "findings.md").read_text()


def test_a_training_begins_where_its_start_was_measured() -> None:
    rows = read_sensitivities()
    steps = trained(rows)["melgan_gan"]
    (start,) = (row for row in rows if (row.vocoder, row.step) == ("melgan", None))
    assert steps[0].step == 0
    assert steps[0].cosines == start.cosines
    assert [row.step for row in steps] == sorted({row.step for row in steps})
    assert trained(rows)["pwg_gan"][0].step != 0  # it began with nothing


def described(path: Path) -> str:
    (found,) = ElementTree.fromstring(path.read_text()).iter("{http://purl.org/dc/elements/1.1/}description")
    return str(found.text)


@pytest.mark.parametrize("curves", [[], ["--curves"]])
def test_names_of_a_file_are_no_formula_and_are_all_shown(curves: list[str], tmp_path: Path) -> None:
    names = {"$\\frac$": "$\\frac$", "a\x01b": "a\\x01b"}
    for weights in names:
        for eps in ("0.5", "1.0"):
            content = json.loads((RESULTS / "human" / f"none_pgd_l2_{eps}.json").read_text())
            content["config"]["model"]["model_kwargs"]["weights"] = weights
            content["config"]["defense"] = {"module": "mine", "name": "_Mine", "kwargs": {}}
            (tmp_path / f"{len(weights)}_{eps}.json").write_text(json.dumps(content))
    out = tmp_path / "x.svg"
    assert cli.main(["plot", *map(str, sorted(tmp_path.glob("*.json"))), "-o", str(out), *curves]) == 0
    root = ElementTree.fromstring(out.read_text())
    texts = ["".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")]
    for shown in names.values():
        assert any(f"_Mine ({shown}" in text or f"_Mine, {shown}" in text for text in texts), texts


@pytest.mark.parametrize(("name", "start"), [("x.png", b"\x89PNG"), ("x.pdf", b"%PDF")])
def test_other_formats(name: str, start: bytes, tmp_path: Path, capsys: Any) -> None:
    words = ["plot", str(RESULTS / "human" / "rs_pgd_l2.json"), "-o", str(tmp_path / name), "--json"]
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out) == {"out": str(tmp_path / name), "runs": 1}
    assert (tmp_path / name).read_bytes().startswith(start)


def test_what_is_refused(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.main(["plot", str(RESULTS), "-o", str(tmp_path / "x.gif")]) == 2
    assert "unknown format of x.gif '.gif', expected one of .pdf, .png, .svg" in capsys.readouterr().err
    assert cli.main(["plot", str(RESULTS), "-o", str(tmp_path / "x.png"), "--split", "humann"]) == 2
    assert "did you mean 'human'" in capsys.readouterr().err
    for words in ([], ["--sensitivity", str(RESULTS)]):
        assert cli.main(["plot", "-o", str(tmp_path / "x.png"), *words]) == 2
        assert "expected runs, or --sensitivity and no runs" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(OptionError, match=r"armory-mdnf\[plot\]"):
        figure.draw(tmp_path / "x.png", runs.read_runs([RESULTS / "human" / "rs_pgd_l2.json"]))
    assert list(tmp_path.iterdir()) == []


def test_no_interval_of_the_headline_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    *rows, last = figure.headline_rows([read_record(path) for path in results_files([RESULTS])])
    wide = dataclasses.replace(last, rates=(last.rates[0], Interval(1.0, 0.5, 9.0, 3)))
    monkeypatch.setattr(figure, "headline_rows", lambda runs: [*rows, wide])
    limits: list[float] = []
    save = Figure.savefig

    def savefig(drawn: Any, *args: Any, **options: Any) -> None:
        limits.extend(axis.get_xlim()[1] for axis in drawn.axes)
        save(drawn, *args, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    figure.draw_headline(tmp_path / "headline.svg", [])
    assert len(limits) > 1
    assert min(limits) > 900
