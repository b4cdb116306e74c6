"""Messages: what a file holds is shown cut, escaped, and without looking at more of it than is shown."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from foreign_files import within
from hypothesis import given
from hypothesis import strategies as st

from armory_mdnf.errors import BundleError, OptionError, cause, choices, quoted, refuse_unknown, shown, traced
from armory_mdnf.files.bounds import check_small


def without_end() -> dict[str, Any]:
    """Values that a file of a few bytes can hold and nobody can print."""
    itself: list[Any] = []
    itself.append(itself)
    twice: Any = ()
    mapped: Any = {}
    for _ in range(100):
        twice = (twice, twice)
        mapped = {"a": mapped, "b": mapped}
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    return {
        "itself": itself,
        "twice": twice,
        "mapped": mapped,
        "deep": deep,
        "digits": 10**10**5,
        "long": "x" * 10**7,
        "many": list(range(10**6)),
        "bytes": b"\x1b" * 10**6,
    }


@pytest.mark.parametrize("name", without_end())
def test_messages_are_bounded(name: str) -> None:
    value = without_end()[name]
    with within(20):
        for text in (
            quoted(value),
            shown(value),
            choices(value, ["melgan", "pwg"], "vocoder"),
            cause(KeyError(value)),
            cause(BundleError(quoted(value, 10**5))),
        ):
            assert len(text) < 700
            assert text.isprintable()


@pytest.mark.parametrize("name", ["itself", "twice", "mapped", "deep", "many"])
def test_what_no_configuration_holds_is_refused(name: str) -> None:
    with within(20), pytest.raises(BundleError, match=r"x: it (holds more than|is nested more than)"):
        check_small(without_end()[name], "x")


def test_what_a_configuration_holds_passes() -> None:
    shared = [1, 2, 3]
    check_small({"a": shared, "b": [shared, {"c": (None, "x")}], 3: 1.5}, "x")
    for value in (None, 1, "x", [], {}):
        check_small(value, "x", most=0)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3) | st.tuples(inner)
    ),
    max_leaves=8,
)


@given(PLAIN)
def test_small_values_are_shown_whole(value: Any) -> None:
    assert quoted(value, 10**4) == ascii(value)
    assert len(quoted(value, 20)) <= 23


def test_names_of_a_file_are_printed_on_one_line() -> None:
    assert shown("optim_dict") == "optim_dict"
    assert shown("a\nb\x1b[2J") == "'a\\nb\\x1b[2J'"
    assert shown("") == "''"
    assert shown(3) == "3"
    assert cause(ValueError("a\nb\x1b")) == "ValueError: a b\\x1b"


def test_the_line_of_ones_own_code_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_lines.py").write_text("import json\n\n\ndef f():\n    json.loads('{')\n")
    monkeypatch.syspath_prepend(tmp_path)
    function = importlib.import_module("own_lines").f
    for folder, where in ((tmp_path, "own_lines.py"), (tmp_path / "x", f"{tmp_path}/own_lines.py")):
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        with pytest.raises(json.JSONDecodeError) as error:
            function()
        assert traced(error.value) == f"{cause(error.value)} ({shown(where, 200)}, line 5)"
    assert traced(OSError("x")) == "OSError: x"  # of no line at all


def test_a_name_that_is_not_known_is_shown_with_the_nearest() -> None:
    assert choices("melgam", ["melgan"], "vocoder").endswith("expected one of melgan; did you mean 'melgan'?")
    with pytest.raises(OptionError, match=r"unknown option of x 'a\\nb', expected one of a"):
        refuse_unknown(["a\nb"], ["a"], "x")
