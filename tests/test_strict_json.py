"""JSON that is read and written strictly: one meaning, finite numbers, bounds; errors with file and place."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from armory_mdnf.errors import BundleError, OptionError
from armory_mdnf.files.strict_json import MAX_DEPTH, check_bounds, dumps, loads, read_json, readable

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**1023), 2**1023)
    | st.floats(allow_nan=False, allow_infinity=False)
    # Text that UTF-8 can hold.
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=10,
)


def outcome(text: str | bytes) -> tuple[Any, str | None]:
    """The value, or None and the message of the refusal."""
    try:
        return loads(text, "a.json"), None
    except BundleError as error:
        return None, str(error)


@given(plain)
def test_what_is_written_is_read_back(value: Any) -> None:
    assert loads(dumps(value), "x") == value
    assert loads(dumps(value, indent=1, sort_keys=True).encode(), "x") == value


@given(st.text() | plain.map(json.dumps))
def test_any_text_is_read_as_pythons_reader_does_or_refused_with_its_name(text: str) -> None:
    found, message = outcome(text)
    if message is None:
        assert found == json.loads(text)
    else:
        assert message.startswith("a.json is not JSON")
        assert len(message) < 400


@given(st.binary(max_size=30))
def test_any_bytes_likewise(content: bytes) -> None:
    _, message = outcome(content)
    assert message is None or message.isascii()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": {"eps": 1, "b": 2, "eps": 3}}', "a: the key 'eps' is there twice"),
        ('{"a": 1, "\\u0061": 1}', "the key 'a' is there twice"),
        ('[{"x": {"y": NaN}}]', r'\[0\].x.y: NaN is no number of JSON; write "nan" in quotes'),
        ('{"norm": Infinity}', 'norm: Infinity is no number of JSON; write "inf" in quotes'),
        ('{"norm": -Infinity}', "norm: -Infinity is no number"),
        ('{"a": [1, -1e999]}', r"a\[1\]: the number -1e999 is too large"),
        ('{"a": 1' + 399 * "0" + "}", r"a: the number 10+\.\.\. is too large"),
        ('{"a": 1' + 9999 * "0" + "}", r"a: the number 1.{39}\.\.\. is too large"),
        ('{"a": "\\ud800"}', "a: an unpaired surrogate in"),
        ('{"\\ud800": 1}', "an unpaired surrogate in"),
        ('\ufeff{"a": 1}', "begins with a byte order mark"),
        ("", "line 1 column 1"),
        ('{"a": 1,}', "line 1 column"),
        ('{"a": 1} 2', "Extra data: line 1 column 10"),
        ("{'a': 1}", "line 1 column 2"),
        ('{"a": "\n"}', "Invalid control character"),
        ('{"a": 01}', "line 1 column 8"),
        (f'{{"{"k" * 999}": NaN}}', r"'k{59}\.\.\.: NaN"),
        ('{"a\\u001b[2J": NaN}', r"'a\\x1b\[2J': NaN"),
    ],
)
def test_refusals_name_the_place(text: str, message: str) -> None:
    with pytest.raises(BundleError, match=f"^b.json is not JSON.*{message}"):
        loads(text, "b.json")


def test_the_place_is_cut() -> None:
    with pytest.raises(BundleError, match=r"meant: \.\.\.k+") as caught:
        loads(f'{{"{"k" * 50}":' * 60 + "NaN" + "}" * 60, "deep.json")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 900, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_nesting_is_bounded(depth: int, opening: str, closing: str) -> None:
    with pytest.raises(BundleError, match=f"more than {MAX_DEPTH} levels") as caught:
        loads(opening * depth + "1" + closing * depth, "deep.json")
    assert len(str(caught.value)) < 400


def test_nesting_up_to_the_bound_is_read() -> None:
    assert loads("[" * MAX_DEPTH + "]" * MAX_DEPTH, "x") == json.loads("[" * MAX_DEPTH + "]" * MAX_DEPTH)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": "\u00e9"}', encoding="utf-8")
    assert read_json(path) == {"a": "\u00e9"}
    assert read_json(str(path), max_bytes=path.stat().st_size) == {"a": "\u00e9"}
    with pytest.raises(OptionError, match=r"a\.json: expected at most 5 bytes of JSON, found more"):
        read_json(path, OptionError, max_bytes=5)
    path.write_bytes(b'{"a": "\xe9"}')
    with pytest.raises(BundleError, match=r"a\.json is not JSON: expected UTF-8, found the byte 0xe9 at 7"):
        read_json(path)
    path.write_bytes(b"\xef\xbb\xbf{}")
    with pytest.raises(BundleError, match=r"a\.json is not JSON: it begins with a byte order mark"):
        read_json(path)
    with pytest.raises(OptionError, match=r"no file at .*missing"):
        read_json(tmp_path / "missing", OptionError)
    with pytest.raises(BundleError, match=r"cannot be read: .*directory"):
        read_json(tmp_path)
    with pytest.raises(BundleError, match="cannot be read: embedded null byte"):
        read_json("a\0b")


def test_an_endless_file_is_not_read_to_its_end() -> None:
    with pytest.raises(BundleError, match="/dev/zero: expected at most 1000 bytes"):
        read_json("/dev/zero", max_bytes=1000)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [0, {"b": math.nan}]}, r"a\[1\].b: nan is no number of JSON"),
        (math.inf, "inf is no number of JSON"),
        ({"a": {1: 2, "1": 3}}, "a: expected keys that are strings, found 1"),
        ({None: 2}, "expected keys that are strings, found None"),
        ({"a": ["\udcff"]}, r"a\[0\]: an unpaired surrogate in '\\udcff'"),
        ({"a": {"\udcff": 1}}, r"a: an unpaired surrogate in '\\udcff'"),
        ({"a": 10**400}, "a: a whole number of 1329 bits is too large a number"),
        ({"a": -(2**1024)}, "a: a whole number of 1025 bits is too large a number"),
    ],
)
def test_what_is_not_written(value: Any, message: str) -> None:
    with pytest.raises(OptionError, match=f"cannot be written as JSON: {message}"):
        dumps(value, error=OptionError)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": ["x", {"b": "\ud800"}]}, r"a\[1\].b: an unpaired surrogate in"),
        ({"\udfff": 1}, "an unpaired surrogate in"),
        (json.loads("[" * 900 + "]" * 900), f"more than {MAX_DEPTH} levels of nesting"),
    ],
)
def test_what_others_write_has_bounds(value: Any, message: str) -> None:
    with pytest.raises(OptionError, match=f"^theirs.json is not JSON as it is meant.*{message}"):
        check_bounds(value, "theirs.json", OptionError)


def test_numbers_that_are_not_finite_are_within_bounds() -> None:
    check_bounds({"a": [math.nan, -math.inf, 10**400]}, "theirs.json")


def test_a_value_within_itself_is_not_written() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(BundleError, match=f"more than {MAX_DEPTH} levels of nesting"):
        dumps(value)


@given(st.text(st.characters()))
def test_any_name_can_be_made_one_that_is_written(name: str) -> None:
    assert loads(dumps(readable(name)), "x") == readable(name)
    assert readable(name) == name or any("\ud800" <= c <= "\udfff" for c in name)
