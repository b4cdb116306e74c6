"""docs/api.md is what the docstrings say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


def test_it_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, ROOT / "tools" / "write_api.py", "--check"], check=False, timeout=60)
    assert done.returncode == 0


@pytest.mark.parametrize(
    "said",
    [
        "#### `class MDNF(",
        "#### `class PGD(",
        "`RecognizerEstimator.predict(",
        "#### `word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float`",
        "#### `class Utterance(id: str, path: Path, transcript: str,",
    ],
)
def test_it_has_what_people_call(said: str) -> None:
    assert said in TEXT


def test_no_marks_of_another_language_are_left() -> None:
    assert ":class:" not in TEXT
    assert ":func:" not in TEXT
    assert "``" not in TEXT.replace("```", "")
