"""Noise curves by name and from files, the malicious among them."""

from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from armory_mdnf.defenses.curves import MAX_BYTES, curve_names, load_curve
from armory_mdnf.errors import BundleError

pytestmark = pytest.mark.usefixtures("closes_files")


def test_the_published_curves():
    linear, log = load_curve("published_linear", 80), load_curve("published_log", 80)
    assert linear.shape == log.shape == (80,)
    assert linear.max() == log.max() == 1
    assert linear[0].item() == pytest.approx(0.947176516)
    assert log.min() == 0


def test_every_bundled_curve_loads():
    assert {"published_linear", "published_log"} <= set(curve_names())
    for name in curve_names():
        assert load_curve(name, 80).dtype == torch.float32


def test_no_curve_is_flat():
    torch.testing.assert_close(load_curve(None, 20), torch.ones(20))


def test_files_are_read_as_they_are(tmp_path):
    values = [0.0, 2.5, 1.0]
    np.save(tmp_path / "a.npy", np.array(values))
    (tmp_path / "a.json").write_text(json.dumps(values))
    (tmp_path / "b.json").write_text(json.dumps({"curve": values, "note": "x"}))
    for name in ("a.npy", "a.json", "b.json"):
        assert load_curve(tmp_path / name, 3).tolist() == values


class Malice:
    def __reduce__(self):
        return os.mkdir, (str(Malice.path),)


def npy(path, array, **options):
    np.save(path, array, **options)
    return path


def text(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def lying_header(path):
    np.lib.format.write_array_header_1_0(
        f := path.open("wb"), {"descr": "<f8", "fortran_order": False, "shape": (10**12,)}
    )
    f.write(bytes(640))
    f.close()
    return path


def truncated(path):
    np.save(path, np.ones(80))
    return text(path, path.read_bytes()[:-100])


BAD = {
    "missing": (lambda d: d / "no.json", "no curve file at"),
    "unknown name": (lambda d: "published_linea", "unknown noise curve.*did you mean 'published_linear'"),
    "other suffix": (lambda d: text(d / "a.txt", "[1]"), "ends in .json or .npy"),
    "a number": (lambda d: 3, "name or path or None, got int"),
    "length": (lambda d: npy(d / "a.npy", np.ones(79)), r"expected 80 values.*found shape \(79,\)"),
    "two axes": (lambda d: npy(d / "a.npy", np.ones((80, 1))), r"found shape \(80, 1\)"),
    "empty list": (lambda d: text(d / "a.json", "[]"), r"found shape \(0,\)"),
    "nan": (lambda d: npy(d / "a.npy", np.full(80, np.nan)), "expected finite values, found nan"),
    "nan in json": (lambda d: text(d / "a.json", json.dumps([float("nan")] * 80)), "NaN is no number of JSON"),
    "negative": (lambda d: npy(d / "a.npy", -np.ones(80)), "expected values >= 0, found -1"),
    "zeros": (lambda d: npy(d / "a.npy", np.zeros(80)), "found zeros only"),
    "text values": (lambda d: text(d / "a.json", json.dumps(["1"] * 80)), "expected a list of numbers"),
    "booleans": (lambda d: text(d / "a.json", json.dumps([True] * 80)), "expected a list of numbers"),
    "no curve key": (lambda d: text(d / "a.json", '{"values": [1]}'), "object with that list as 'curve'"),
    "not json": (lambda d: text(d / "a.json", "[1, 2"), "is not JSON"),
    "not utf-8": (lambda d: text(d / "a.json", b"\xff\xfe"), "is not JSON"),
    "deep json": (lambda d: text(d / "a.json", "[" * 200000), "more than 64 levels of nesting"),
    "huge number": (lambda d: text(d / "a.json", "[1" + "0" * 400 + "]"), r"the number 10{39}\.\.\. is too large"),
    "big file": (lambda d: text(d / "a.json", " " * (MAX_BYTES + 1)), "expected a curve of numbers per mel bin, found"),
    "empty file": (lambda d: text(d / "a.npy", ""), "not a readable .npy file"),
    "truncated": (lambda d: truncated(d / "a.npy"), "not a readable .npy file"),
    "lying header": (lambda d: lying_header(d / "a.npy"), "not a readable .npy file"),
    "too large": (lambda d: npy(d / "a.npy", np.full(80, 1e39)), r"values that float32 holds, found 1e\+39"),
    "too small": (lambda d: npy(d / "a.npy", np.full(80, 1e-50)), "values that float32 holds, found 1e-50"),
    "complex": (lambda d: npy(d / "a.npy", np.ones(80, dtype=complex)), "real numbers, found complex128"),
    "strings": (lambda d: npy(d / "a.npy", np.array(["a"] * 80)), "real numbers, found <U1"),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD.keys())
def test_bad_curves_are_refused(tmp_path, make, message):
    with pytest.raises(BundleError, match=message):
        load_curve(make(tmp_path), 80)


@pytest.mark.parametrize("wrap", ["array", "pickle", "archive"])
def test_nothing_in_a_curve_file_is_executed(tmp_path, wrap):
    Malice.path = tmp_path / "executed"
    path = tmp_path / "a.npy"
    if wrap == "array":
        np.save(path, np.array([Malice()] * 80, dtype=object), allow_pickle=True)
    elif wrap == "pickle":
        path.write_bytes(pickle.dumps(Malice()))
    else:
        with path.open("wb") as f:
            np.savez(f, a=np.array([Malice()], dtype=object))
    with pytest.raises(BundleError):
        load_curve(path, 80)
    assert not Malice.path.exists()


@given(content=st.binary(max_size=200), suffix=st.sampled_from([".npy", ".json"]), magic=st.booleans())
def test_any_bytes_give_a_curve_or_a_refusal(tmp_path_factory, content, suffix, magic):
    path = tmp_path_factory.mktemp("curves") / f"x{suffix}"
    path.write_bytes((b"\x93NUMPY\x01\x00" if magic and suffix == ".npy" else b"") + content)
    try:
        curve = load_curve(path, 2)
    except BundleError:
        return
    assert curve.shape == (2,)
    assert bool((curve >= 0).all())
