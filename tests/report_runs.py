"""Recorded runs, and changed ones, for the tests of the page."""

from __future__ import annotations

import dataclasses
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from armory_mdnf.evaluation.records import RunRecord, read_record

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"


def record(name: str = "none_pgd_l2") -> RunRecord:
    return read_record(RESULTS / "human" / f"{name}.json")


def changed(run: RunRecord, **attack: Any) -> RunRecord:
    block = run.config["attack"] | {k: v for k, v in attack.items() if k != "kwargs"}
    block |= {"kwargs": block["kwargs"] | attack.get("kwargs", {})}
    return dataclasses.replace(run, config={**run.config, "attack": block})


class Outline(HTMLParser):
    """Tags that are open, addresses, identifiers and headings of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "link", "img", "input", "br", "line", "path", "polyline"):
            self.open.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), f"{tag} has {name}"
            if name in ("src", "href"):
                self.addresses.append(str(value))
            if name == "id":
                self.ids.append(str(value))

    def handle_endtag(self, tag: str) -> None:
        if self.open and tag in self.open:
            assert self.open.pop() == tag


def outline(html: str) -> Outline:
    found = Outline()
    found.feed(html)
    assert found.open == []
    return found
