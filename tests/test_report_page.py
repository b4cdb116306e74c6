"""The page as a file, with audits beside the runs, and the command that writes it."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from report_runs import RESULTS, outline, record

from armory_mdnf import cli
from armory_mdnf.audit.command import as_json
from armory_mdnf.audit.findings import Finding
from armory_mdnf.audit.names import FORMAT
from armory_mdnf.evaluation.records import Outcome, RunRecord, write_record
from armory_mdnf.report import page, runs

FOUND = [
    Finding("gradient", "pass", "It is one.", {"cosine": 0.99}),
    Finding(
        "draws", "fail", "More draws find <more>.", {"gain": {"value": 12.0, "low": 3.0, "high": 20.0}}, "Average."
    ),
]


def audited(path: Path, run: RunRecord, findings: list[Finding] = FOUND) -> Path:
    """A file as the audit writes it."""
    about = {
        "format": FORMAT,
        "configuration": "x.json",
        "config": dict(run.config),
        "fingerprints": {},
        "versions": {},
    }
    settings = {"utterances": ["a", "b"], "iterations": 20, "iterations_asked": 100, "checks": ["gradient", "draws"]}
    path.write_text(json.dumps(as_json(about | {"settings": settings}, findings, 1.0)))
    return path


def test_an_audit_stands_beside_its_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = record("mg_mdnf_pgd_l2")
    write_record(tmp_path / "runs" / "a.json", run)
    write_record(tmp_path / "runs" / "b.json", record("mg_mdnf_pgd_l2_0.5"))
    audited(tmp_path / "runs" / "audit.json", run)
    out = tmp_path / "page.html"
    assert cli.main(["report", str(tmp_path / "runs"), "-o", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["runs"], told["audits"]) == (2, 1)
    html = out.read_text(encoding="utf-8")
    outline(html)
    assert html.count('href="#audit-1"') == 1  # only in the cell of the configuration that was audited
    assert "audit: fail" in html
    assert "More draws find &lt;more&gt;." in html
    assert "gain: 12 [3, 20]" in html
    assert "or that the attack proves nothing" in html  # as a failed check of draws says, or of white noise
    assert "MG-MDNF (ds2_mg), l2 1.5, human, 2 utterances, 20 of 100 iterations" in html


def test_an_audit_alone_or_damaged_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = record("mg_mdnf_pgd_l2")
    path = audited(tmp_path / "audit.json", run)
    assert cli.main(["report", str(path), "-o", str(tmp_path / "x.html")]) == 2
    assert "expected the runs that it is about too" in capsys.readouterr().err
    write_record(tmp_path / "runs" / "a.json", run)
    (tmp_path / "audits").mkdir()
    audited(tmp_path / "audits" / "a.json", run)
    assert cli.main(["report", str(tmp_path / "audits"), "-o", str(tmp_path / "x.html")]) == 2
    assert "expected the runs that it is about too" in capsys.readouterr().err
    both = [str(tmp_path / "runs"), str(tmp_path / "audits")]  # a folder with nothing but audits
    assert cli.main(["report", *both, "-o", str(tmp_path / "x.html"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["audits"] == 1
    content = json.loads(path.read_text())
    write_record(tmp_path / "run.json", run)
    for broken in (content | {"verdict": "fine"}, {k: v for k, v in content.items() if k != "settings"}):
        path.write_text(json.dumps(broken))
        assert cli.main(["report", str(path), str(tmp_path / "run.json"), "-o", str(tmp_path / "x.html")]) == 2
        assert "audit.json: not a complete audit" in capsys.readouterr().err


def test_recordings_of_ones_own_have_the_name_of_their_folder() -> None:
    run = record("rs_pgd_l2")
    data = {"module": "armory_mdnf.plugin.datasets", "name": "recordings", "eval_split": "/home/me/speech"}
    html = page.render([runs.place(dataclasses.replace(run, config={**run.config, "dataset": data}), "x")])
    shown = re.sub(r"<pre.*?</pre>|data:[^\"]*", "", html, flags=re.DOTALL)
    assert "speech (own recordings)" in shown
    assert "/home/me" not in shown


def test_the_page_is_whole_and_needs_nothing_else(html: str) -> None:
    found = outline(html)
    assert all(address.startswith(("data:", "#")) for address in found.addresses)
    assert len(set(found.ids)) == len(found.ids)
    assert {a[1:] for a in found.addresses if a.startswith("#")} <= set(found.ids)
    assert [tag for tag in found.tags if tag in ("h1", "main", "header", "footer")] == [
        "header",
        "h1",
        "main",
        "footer",
    ]
    assert "url(" not in html
    assert "@import" not in html


def test_what_comes_from_a_run_is_escaped(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    run = dataclasses.replace(
        record(),
        name=evil,
        outcomes=(Outcome(evil, evil, evil, id=evil),),
        config={**record().config, "_description": evil, "defense": {"name": evil, "kwargs": {"vocoder": evil}}},
        versions={evil: evil},
    )
    found = outline(page.render([runs.place(run, f"{tmp_path}/{evil}")], title=evil))
    assert found.tags.count("script") == 1
    assert "img" not in found.tags


def test_one_benign_run_is_a_page(tmp_path: Path) -> None:
    write_record(tmp_path / "a.json", dataclasses.replace(record("none_benign"), outcomes=(Outcome("A B", "A"),)))
    html = page.render(runs.read_runs([tmp_path / "a.json"]))
    assert {"worst", "curves", "balance"} & set(outline(html).ids) == set()
    assert "none_benign" in html


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "r.html"
    words = ["report", str(RESULTS / "human" / "none_pgd_l2.json"), "-o", str(out)]
    assert cli.main(words) == 0
    assert capsys.readouterr().out.startswith(f"{out}: 1 run, ")
    assert cli.main([*words, "--json", "--title", "Mine"]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] == out.stat().st_size
    assert "<h1>Mine</h1>" in out.read_text()
    assert cli.main([*words, "--audio", "-1"]) == 2
    assert "--audio: expected a whole number >= 0" in capsys.readouterr().err


def test_a_file_whose_name_is_no_utf8_is_on_the_page_escaped(tmp_path: Path, not_utf8: str) -> None:
    source = tmp_path / f"{not_utf8}.json"
    write_record(tmp_path / "a.json", record("mg_mdnf_pgd_l2"))
    (tmp_path / "a.json").rename(source)
    assert cli.main(["report", str(source), "-o", str(tmp_path / "x.html")]) == 0
    assert "caf\\udce9.json" in (tmp_path / "x.html").read_text(encoding="utf-8")
