"""Files that are there whole or not at all: who may read them is as the user's umask says."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from armory_mdnf.files import atomic, bundles


@pytest.fixture
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)], indirect=["umask"])
def test_the_umask_says_who_may_read(mode: int, tmp_path: Path) -> None:
    text, bundle = tmp_path / "a.json", tmp_path / "a.safetensors"
    left = atomic._partial(text)  # by a killed process of the same number
    left.touch(0o600)
    for _ in range(2):  # new, and in place of another
        atomic.write_text(text, "{}")
        bundles.save(bundle, "test", {}, {"x": torch.zeros(1)})  # safetensors writes for its user alone
        assert [stat.S_IMODE(path.stat().st_mode) for path in (text, bundle)] == [mode, mode]
    assert sorted(tmp_path.iterdir()) == [text, bundle]
