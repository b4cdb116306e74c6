"""Weight files: what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import tiny_recognizer
from safetensors.torch import save_file

from armory_mdnf import bundles
from armory_mdnf.asr.checkpoints import load_recognizer, save_recognizer
from armory_mdnf.errors import BundleError


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_recognizer(path, tiny_recognizer(), {"seed": 1})
    return path


def rewrite(path: Path, change: dict[str, torch.Tensor | None]) -> None:
    config, tensors = bundles.load(path, "deepspeech2")
    tensors = {k: v for k, v in (tensors | change).items() if v is not None}
    bundles.save(path, "deepspeech2", config, tensors)


def test_a_saved_recogniser_comes_back(saved: Path) -> None:
    original, loaded = tiny_recognizer(), load_recognizer(saved)
    x = torch.randn(1, 4000)
    assert torch.equal(original(x, torch.tensor([4000]))[0], loaded(x, torch.tensor([4000]))[0])
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert list(saved.parent.iterdir()) == [saved]


def test_half_precision_halves_the_file_and_changes_little(saved: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.safetensors"
    save_recognizer(half, tiny_recognizer(), {"seed": 1}, half=True)
    assert half.stat().st_size < 0.6 * saved.stat().st_size
    x, lengths = torch.randn(1, 4000, generator=torch.Generator().manual_seed(0)), torch.tensor([4000])
    loaded = load_recognizer(half)
    assert next(loaded.parameters()).dtype == torch.float32
    full = load_recognizer(saved)(x, lengths)[0].softmax(-1)
    torch.testing.assert_close(loaded(x, lengths)[0].softmax(-1), full, atol=0.02, rtol=0)


def test_truncated_and_foreign_files_are_refused(saved: Path, tmp_path: Path) -> None:
    content = saved.read_bytes()
    for size in (0, 7, 100, len(content) // 2, len(content) - 1):
        saved.write_bytes(content[:size])
        with pytest.raises(BundleError, match=saved.name):
            load_recognizer(saved)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"w": torch.zeros(1)}, str(foreign))
    with pytest.raises(BundleError, match="expected format"):
        load_recognizer(foreign)


def test_another_kind_is_refused(saved: Path) -> None:
    with pytest.raises(BundleError, match="expected a bundle of kind 'melgan', found 'deepspeech2'"):
        bundles.load(saved, "melgan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fc.0.module.1.weight": None}, r"expected weight 'fc.0.module.1.weight' of shape \(29, 24\), found none"),
        ({"fc.0.module.1.weight": torch.zeros(3, 3)}, r"of shape \(29, 24\), found \(3, 3\)"),
        ({"fc.0.module.1.weight": torch.full((29, 24), torch.nan)}, "expected finite numbers"),
        ({"extra": torch.zeros(2)}, "found weight 'extra', which"),
    ],
)
def test_weights_that_do_not_fit_are_named(saved: Path, change: dict, message: str) -> None:
    rewrite(saved, change)
    with pytest.raises(BundleError, match=message):
        load_recognizer(saved)


def test_names_and_paths_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no weight file at"):
        load_recognizer(tmp_path / "none.safetensors")
    with pytest.raises(BundleError, match="did you mean 'ds2_base'"):
        load_recognizer("ds2_bas")
