"""Weight files: what is refused."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_recognizer
from foreign_files import within
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import save_file

from armory_mdnf.asr.checkpoints import load_recognizer, save_recognizer
from armory_mdnf.errors import BundleError
from armory_mdnf.files import bundles
from armory_mdnf.vocoders import load_vocoder


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


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    bundles.save(path, "small", {"a": 1}, {"w": torch.ones(3), "empty": torch.zeros(0, 2)})
    for size in reversed(range(path.stat().st_size)):
        os.truncate(path, size)
        with pytest.raises(BundleError, match=r"small\.safetensors is not a readable safetensors file"):
            bundles.load(path, "small")
        with pytest.raises(BundleError, match=r"small\.safetensors"):
            bundles.kind_of(path)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    save_file({"w": torch.zeros(1)}, str(foreign))
    with pytest.raises(BundleError, match="expected format"):
        load_recognizer(foreign)
    save_file({"w": torch.zeros(1)}, str(foreign), {"format": "\x1b" * 10**6})
    with pytest.raises(BundleError, match=r"found '\\x1b.*\.\.\.") as refused:
        load_recognizer(foreign)
    assert len(str(refused.value)) < 500
    with pytest.raises(BundleError, match="is a folder"):
        bundles.kind_of(tmp_path)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_of_torch_is_told_to_be_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, zipped: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": 1}, f"x{suffix}", _use_new_zipfile_serialization=zipped)
    for name in (f"x{suffix}", f"./x{suffix}", tmp_path / f"x{suffix}"):
        for load in (load_recognizer, load_vocoder):
            with pytest.raises(BundleError, match=r"is a checkpoint of torch.*`armory-mdnf checkpoint convert .*x\."):
                load(name)
    with pytest.raises(BundleError, match=rf"no weight file at y\{suffix}, neither from here"):
        load_recognizer(f"y{suffix}")


@pytest.mark.parametrize("name", [3, None, ["a"], "x" * 10**4, "/" + "x" * 10**4, "a\0b/c", "\x1b[2J/x"])
def test_what_is_no_name_is_refused(name: Any) -> None:
    with pytest.raises(BundleError) as refused:
        bundles.resolve(name)
    assert len(str(refused.value)) < 500
    assert str(refused.value).isprintable()


# Configurations as they may stand in a file that somebody else made.
CONFIGS = {
    "no JSON": ("{", "its configuration is not JSON"),
    "a list": ("[1]", "a configuration that is an object, found list"),
    "a key twice": ('{"model": {}, "model": {}}', "the key 'model' is there twice"),
    "a number of many digits": (f'{{"a": {"9" * 5000}}}', "is too large"),
    "nested": ("[" * 10**5, "levels of nesting"),
    "infinite": ('{"a": 1e999}', "is too large"),
    "many values": (f'{{"a": [{"0," * 20_000}0]}}', "holds more than 10000 values"),
    "long": (" " * (1 << 21), "at most 1048576 characters, found one of 2097152"),
    "another model": ('{"model": 3}', "describes no recogniser: AttributeError"),
    "an unknown size": ('{"model": {"hiden_size": 3}}', "did you mean 'hidden_size'"),
    "a billion layers": ('{"model": {"hidden_layers": 1000000000}}', "a layer per weight at most"),
    "a million channels": (
        '{"model": {"hidden_size": 1000000}}',
        "expected weight 'conv.seq_module.0.weight' of shape",
    ),
    "a window of a million seconds": (
        '{"model": {"window_s": 1e6}}',
        "expected window_s to be a finite number above 0 and at most 1",
    ),
    "labels that are none": ('{"model": {"labels": ["a"]}}', "labels as a string"),
    "no alphabet": (
        f'{{"model": {{"hidden_size": 24, "hidden_layers": 2, "conv_channels": 4, "labels": "{"a" * 29}"}}}}',
        "two different characters",
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations_are_bounded(saved: Path, name: str) -> None:
    text, message = CONFIGS[name]
    tensors = bundles.load(saved, "deepspeech2")[1]
    save_file(tensors, str(saved), {"format": bundles.FORMAT, "kind": "deepspeech2", "config": text})
    with within(20), pytest.raises(BundleError, match=message) as refused:
        load_recognizer(saved)
    assert len(str(refused.value)) < 1000
    assert "tiny.safetensors" in str(refused.value)


@given(data=st.data())
def test_any_damage_is_a_refusal_or_harmless(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("damaged") / "small.safetensors"
    bundles.save(path, "small", {"a": [1, {"b": None}]}, {"w": torch.ones(3)})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    said = ""
    try:
        config, tensors = bundles.load(path, "small")
        assert isinstance(config, dict)
        assert len(tensors) == 1
    except BundleError as error:
        said = str(error)
    assert len(said) < 1000


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("Error while serializing: I/O error: No space left on device (os error 28)", errno.ENOSPC),
        ('Error while serializing: IoError(Os { code: 28, kind: StorageFull, message: "x" })', errno.ENOSPC),
        ("something else", errno.EIO),
    ],
)
def test_a_failing_disk_is_an_oserror_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, number: int
) -> None:
    """safetensors has an error of its own for it, with the number in the text."""

    def full(*args: object, **options: object) -> None:
        raise SafetensorError(said)

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match=r"No space left|something else") as failed:
        bundles.save(tmp_path / "x.safetensors", "small", {}, {})
    assert failed.value.errno == number
    assert failed.value.filename == str(tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_another_kind_is_refused(saved: Path) -> None:
    with pytest.raises(BundleError, match="expected a bundle of kind 'melgan', found 'deepspeech2'"):
        bundles.load(saved, "melgan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fc.0.module.1.weight": None}, r"expected weight 'fc.0.module.1.weight' of shape \(29, 24\), found none"),
        ({"fc.0.module.1.weight": torch.zeros(3, 3)}, r"of shape \(29, 24\), found \(3, 3\)"),
        ({"fc.0.module.1.weight": torch.full((29, 24), torch.nan)}, "expected finite numbers"),
        ({"fc.0.module.1.weight": torch.ones(29, 24, dtype=torch.int8)}, "floating point numbers in weight .*int8"),
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
