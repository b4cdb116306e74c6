"""Tests that `make test-portable` repeats under other instruction sets and threads."""

from __future__ import annotations

import re
from pathlib import Path

from conftest import NUMERIC

TESTS = Path(__file__).parent
TOLERANT = re.compile(r"assert_allclose|assert_close|pytest\.approx|allclose\(")
# What these compare was computed in double precision from a few numbers, or is no arithmetic at all.
EXACT_ENOUGH = {
    *("test_configs", "test_configs_run", "test_corpus", "test_files", "test_intervals", "test_kokoro"),
    "test_metrics",
}


def test_the_files_exist() -> None:
    assert {name for name in NUMERIC | EXACT_ENOUGH if not (TESTS / f"{name}.py").is_file()} == set()


def test_no_file_with_a_tolerance_is_left_out() -> None:
    files = [path for path in TESTS.glob("test_*.py") if path.stem != "test_numeric"]
    tolerant = {path.stem for path in files if TOLERANT.search(path.read_text(encoding="utf-8"))}
    assert sorted(tolerant - NUMERIC - EXACT_ENOUGH) == []
