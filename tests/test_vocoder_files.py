"""The files beside a vocoder's weights: which format needs which, every truncation, what would take hours to read."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml
from foreign_files import within
from hypothesis import given
from hypothesis import strategies as st
from test_vocoder_checkpoints import DATA, HIFIGAN_CONFIG, LJSPEECH, MELGAN, PUBLISHED, checkpoint, hifigan_checkpoint

from armory_mdnf.audio.mel import MELGAN_DESCRIPT
from armory_mdnf.checkpoints.files import open_checkpoint
from armory_mdnf.defenses.curves import load_curve
from armory_mdnf.errors import BundleError
from armory_mdnf.vocoders import Vocoder, load_vocoder, save_vocoder
from armory_mdnf.vocoders.importing import read_config
from armory_mdnf.vocoders.parallel_wavegan_checkpoints import read_statistics

DESCRIPT = DATA / "melgan_descript.pt"


def vocoder(path: Path, **beside: Any) -> Vocoder:
    module = open_checkpoint(path, **beside).imported.module
    assert isinstance(module, Vocoder)
    return module


@pytest.mark.parametrize("name", ["config.json", "args.yml"])
def test_descripts_rate_is_read_from_the_configuration(tmp_path: Path, name: str) -> None:
    path, values = tmp_path / name, {"sampling_rate": 16000, "batch_size": 16}
    path.write_text(json.dumps(values) if name.endswith("json") else yaml.dump(values))
    opened = open_checkpoint(DESCRIPT, config=path)
    recipe = opened.imported.module.recipe
    assert (recipe.sample_rate_hz, recipe.f_max_hz, recipe.hop) == (16000, 8000.0, MELGAN_DESCRIPT.hop)
    assert f"mel recipe (16000 Hz): from {name}, else descript's" in opened.imported.mapped
    assert opened.imported.left == (f"{name}: batch_size",)
    assert vocoder(DESCRIPT).recipe == MELGAN_DESCRIPT
    path.write_text(json.dumps(values | {"mel_fmin": 40, "mel_fmax": 7600, "n_fft": 2048, "win_length": 800}))
    recipe = vocoder(DESCRIPT, config=path).recipe
    assert (recipe.f_min_hz, recipe.f_max_hz, recipe.n_fft, recipe.win) == (40.0, 7600.0, 2048, 800)
    path.write_text(json.dumps(values | {"mel_fmax": None}))
    assert vocoder(DESCRIPT, config=path).recipe.f_max_hz == 8000.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "expected a sampling_rate, .* found none"),
        ({"sampling_rate": None}, "a number under 'sampling_rate', found None"),
        ({"sampling_rate": "16000"}, "a number under 'sampling_rate', found '16000'"),
        ({"sampling_rate": True}, "a number under 'sampling_rate', found True"),
        ({"sampling_rate": 0}, "sample_rate_hz"),
        ({"sampling_rate": 10**12}, "at most 1000000 Hz"),
        ({"sampling_rate": 16000, "hop_length": 200}, "does not fit the mel recipe"),
        ({"sampling_rate": 16000, "n_fft": 10**9, "win_length": 1024}, "n_fft and mel bins of at most"),
        ({"sampling_rate": 16000, "mel_fmax": 9000}, "half the sample rate"),
        ({"sampling_rate": 16000, "mel_fmax": 10**300}, "half the sample rate"),
        ({"sampling_rate": 16000, "mel_fmin": float("nan")}, "NaN is no number"),
    ],
)
def test_front_ends_that_descripts_generator_cannot_have_are_refused(
    tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps(values))
    with within(20), pytest.raises(BundleError, match=message):
        vocoder(DESCRIPT, config=path)


def test_files_beside_that_are_not_there_or_of_no_use_are_refused(tmp_path: Path, weights: str) -> None:
    there, missing = tmp_path / "c.json", tmp_path / "missing"
    there.write_text("{}")
    hifigan = hifigan_checkpoint(tmp_path)[0]
    recogniser = DATA / "deepspeech2" / "unilstm.ckpt"
    files = {"config": there, "stats": there}
    for path, useless in (
        (DESCRIPT, ["stats"]),
        (hifigan, ["stats"]),
        (recogniser, ["config", "stats"]),
        (Path(weights), ["config", "stats"]),
    ):
        for option in ("config", "stats"):
            with pytest.raises(BundleError, match=f"no file at .*missing, which --{option} names"):
                open_checkpoint(path, **{option: missing})
        for option in useless:
            with pytest.raises(BundleError, match=f"has no use for --{option} .*c.json: leave it out"):
                open_checkpoint(path, **{option: files[option]})
        with pytest.raises(BundleError, match="has no use for --stats none"):
            open_checkpoint(path, stats="none")


@pytest.mark.parametrize("name", ["melgan.v1", "natural logarithm"])
def test_a_vocoder_may_have_no_statistics(tmp_path: Path, name: str) -> None:
    """ParallelWaveGAN's issue 289. Its features are then the logarithm itself, to the base of its configuration."""
    path = checkpoint(tmp_path, name)
    (tmp_path / "stats.h5").unlink()
    with pytest.raises(BundleError, match=r"say where it is with --stats, or --stats none if .* not normalised"):
        vocoder(path)
    opened = open_checkpoint(path, stats="none")
    assert "normalisation, none, as --stats none says" in opened.imported.mapped
    x, lengths = torch.randn(1, 9000, generator=torch.Generator().manual_seed(0)), torch.tensor([9000])
    found = opened.imported.module.mel(x, lengths)[0]
    np.savez(tmp_path / "x.npz")  # a file of that name is another matter
    mean, scale = torch.zeros(80), torch.ones(80)
    np.save(tmp_path / "stats.npy", np.stack([mean.numpy(), scale.numpy()]))
    torch.testing.assert_close(found, vocoder(path).mel(x, lengths)[0])
    save_vocoder(tmp_path / "v.safetensors", opened.imported.module)
    torch.testing.assert_close(load_vocoder(tmp_path / "v.safetensors").mel(x, lengths)[0], found)


def statistics_h5(path: Path, **options: Any) -> Path:
    with h5py.File(path, "w") as f:
        for name, value in (("mean", -2.0), ("scale", 0.5)):
            f.create_dataset(name, data=np.full(4, value, np.float32), **options)
    return path


def statistics_npy(path: Path) -> Path:
    np.save(path, np.stack([np.full(4, -2.0), np.full(4, 0.5)]).astype(np.float32))
    return path


@pytest.mark.parametrize("make", [statistics_h5, statistics_npy])
def test_every_truncation_of_statistics_is_refused(tmp_path: Path, make: Any) -> None:
    path = make(tmp_path / ("s.h5" if make is statistics_h5 else "s.npy"))
    assert [t.tolist() for t in read_statistics(path, 4)] == [[-2.0] * 4, [0.5] * 4]
    for size in reversed(range(path.stat().st_size)):
        os.truncate(path, size)
        with pytest.raises(BundleError, match=path.name):
            read_statistics(path, 4)


@pytest.mark.parametrize("suffix", ["json", "npy"])
def test_every_truncation_of_a_curve_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"c.{suffix}"
    np.save(path, np.ones(3)) if suffix == "npy" else path.write_text(json.dumps({"note": "x", "curve": [1.0, 2, 3e0]}))
    assert load_curve(path, 3).shape == (3,)
    for size in reversed(range(path.stat().st_size)):
        os.truncate(path, size)
        with pytest.raises(BundleError, match=path.name):
            load_curve(path, 3)


def test_every_truncation_of_hifigans_configuration_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(HIFIGAN_CONFIG))
    assert read_config(path) == HIFIGAN_CONFIG
    for size in reversed(range(path.stat().st_size)):
        os.truncate(path, size)
        with pytest.raises(BundleError, match=r"config\.json"):
            read_config(path)


def linked(path: Path, link: Any) -> Path:
    statistics_h5(path)
    other = statistics_h5(path.with_name("other.h5"))
    with h5py.File(path, "a") as f:
        del f["mean"]
        f["mean"] = link(other)
    return path


def raw(path: Path) -> Path:
    """Numbers that HDF5 takes from any file that is named."""
    secret = path.with_name("secret")
    secret.write_bytes(bytes(16))
    with h5py.File(statistics_h5(path), "a") as f:
        del f["mean"]
        f.create_dataset("mean", (4,), np.float32, external=[(str(secret), 0, 16)])
    return path


def virtual(path: Path) -> Path:
    layout = h5py.VirtualLayout((4,), np.float32)
    layout[:] = h5py.VirtualSource(str(statistics_h5(path.with_name("other.h5"))), "mean", (4,))
    with h5py.File(statistics_h5(path), "a") as f:
        del f["mean"]
        f.create_virtual_dataset("mean", layout)
    return path


def typed(path: Path, dtype: Any) -> Path:
    with h5py.File(statistics_h5(path), "a") as f:
        del f["mean"]
        f.create_dataset("mean", (4,), dtype)
    return path


HDF5: dict[str, Any] = {
    "a link to another file": lambda p: linked(p, lambda other: h5py.ExternalLink(str(other), "mean")),
    "a link within it": lambda p: linked(p, lambda other: h5py.SoftLink("/scale")),
    "numbers of another file": raw,
    "a view of another file": virtual,
    "a chunk of 256 MB in some thousand bytes": lambda p: statistics_h5(
        p, chunks=(1 << 26,), maxshape=(None,), compression="gzip"
    ),
    "texts of a gigabyte": lambda p: typed(p, "S1000000000"),
    "texts of any length": lambda p: typed(p, h5py.string_dtype()),
    "a group": lambda p: linked(p, lambda other: h5py.Empty("f")),
}


@pytest.mark.parametrize("name", HDF5)
def test_statistics_lie_in_their_file_as_they_are(tmp_path: Path, name: str) -> None:
    path = HDF5[name](tmp_path / "s.h5")
    with within(20), pytest.raises(BundleError, match=r"s\.h5: expected .*'mean'"):
        read_statistics(path, 4)


def test_large_files_of_statistics_are_not_opened(tmp_path: Path) -> None:
    for name in ("s.h5", "s.npy"):
        path = tmp_path / name
        path.touch()
        os.truncate(path, 1 << 40)  # a hole: it takes no room
        with within(20), pytest.raises(BundleError, match="some hundred numbers, found 1099511627776 bytes"):
            read_statistics(path, 4)


def header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


NPY = {
    "nested": header("-" * 9000 + "1"),
    "brackets": header("(" * 9000),
    "terabytes": header("{'descr': '<f8', 'fortran_order': False, 'shape': (2, 1000000000000)}\n"),
    "none of a large size": header("{'descr': '<f8', 'fortran_order': False, 'shape': (0, 4000000000000000000)}\n"),
    "negative": header("{'descr': '<f8', 'fortran_order': False, 'shape': (-2, -4)}\n"),
    "texts of no length": header("{'descr': '|S0', 'fortran_order': False, 'shape': (2, 1000000000000)}\n"),
    "voids": header("{'descr': '|V1000000000', 'fortran_order': False, 'shape': (2, 4)}\n"),
    "a number of many digits": header("{'descr': '<f8', 'fortran_order': False, 'shape': (" + "9" * 5000 + ",)}\n"),
    "one number": header("{'descr': '<f8', 'fortran_order': False, 'shape': ()}\n") + bytes(8),
    "three rows": b"",
}


@pytest.mark.parametrize("name", NPY)
def test_arrays_are_bounded(tmp_path: Path, name: str) -> None:
    path = tmp_path / "s.npy"
    path.write_bytes(NPY[name])
    if not NPY[name]:
        np.save(path, np.ones((3, 4)))
    for read in (lambda: read_statistics(path, 4), lambda: load_curve(path, 4)):
        with within(20), pytest.raises(BundleError, match=r"s\.npy") as refused:
            read()
        assert len(str(refused.value)) < 500


def doubled(merge: bool) -> str:
    """Each line holds the one before it ten times."""
    lines = ["a0: &a0 {x: 1}"]
    for i in range(1, 10):
        before = ", ".join([f"*a{i - 1}"] * 10)
        lines.append(f"a{i}: &a{i} {{<<: [{before}]}}" if merge else f"a{i}: &a{i} [{before}]")
    return "\n".join(lines)


YAML = {
    "lists of lists": (doubled(merge=False), "holds more than 10000 values"),
    "merged mappings": (doubled(merge=True), "merges mappings"),
    "a list of itself": ("a: &a [*a]", "nested more than 32 deep"),
    "a number to the base of sixty": ("a: 1" + ":1" * 60_000, "a number of 120001 characters"),
    "a fraction to the base of sixty": ("a: 1" + ":1" * 2000 + ".5", "a number of"),
    "a number of many digits": ("a: " + "9" * 5000, "a number of 5000 characters"),
    "brackets": ("a: " + "[" * 100_000, "not a readable configuration"),
    "mappings in mappings": ("\n".join(" " * i + "a:" for i in range(400)), r"config\.yml"),
    "a key twice": ("a: 1\na: 2", "the key 'a' is there twice"),
    "a key that is a list": ("? [a]\n: 1", "not a readable configuration"),
    "a date that is none": ("a: 2001-99-99", "not a readable configuration"),
    "too long": ("#" * (1 << 18), "at most 131072 bytes, found 262144"),
    "an object": ("a: !!python/name:os.system", "not a readable configuration"),
    "escapes": ('"\\e[2J": &x 1\n"\\e[2J": 2', r"the key '\\x1b\[2J' is there twice"),
}


@pytest.mark.parametrize("name", YAML)
def test_yaml_is_bounded(tmp_path: Path, name: str) -> None:
    text, message = YAML[name]
    path = tmp_path / "config.yml"
    path.write_text(text)
    with within(20), pytest.raises(BundleError, match=message) as refused:
        read_config(path)
    assert len(str(refused.value)) < 500
    assert str(refused.value).isprintable()


def test_yaml_of_published_vocoders_is_read(tmp_path: Path) -> None:
    path, shared = tmp_path / "config.yml", [8, 8, 2, 2]
    values = LJSPEECH | {"a": shared, "b": shared, "lr": 1.0e-4, "none": None, "c": {"d": [True, "x"]}}
    path.write_text(yaml.dump(values))
    assert "&id001" in path.read_text()
    assert read_config(path) == values


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**12) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


PARTS = ("melgan.v1", "multi_band_melgan.v2", "parallel_wavegan.v1", "parallel_wavegan.v3", "hifigan.v1")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {n: checkpoint(tmp_path_factory.mktemp("p"), n) for n in PARTS}


@given(data=st.data())
def test_any_value_in_a_configuration_is_a_refusal_or_harmless(published: dict[str, Path], data: st.DataObject) -> None:
    """One key, of the configuration or of its generator, is set to anything; large sizes take no time either."""
    name = data.draw(st.sampled_from(sorted(published)))
    config = LJSPEECH | PUBLISHED[name]
    inside = data.draw(st.booleans())
    target = dict(config["generator_params"]) if inside else dict(config)
    target[data.draw(st.sampled_from(sorted(target)))] = data.draw(VALUES)
    path = published[name].parent / "changed.yml"
    path.write_text(yaml.dump(config | {"generator_params": target} if inside else target))
    with within(20), contextlib.suppress(BundleError):
        vocoder(published[name], config=path)


@given(content=st.text(max_size=60) | st.binary(max_size=60), suffix=st.sampled_from(["json", "yml", "npy", "h5"]))
def test_any_text_is_a_refusal_or_a_mapping(
    tmp_path_factory: pytest.TempPathFactory, content: str | bytes, suffix: str
) -> None:
    path = tmp_path_factory.mktemp("any") / f"x.{suffix}"
    path.write_bytes(content.encode(errors="surrogatepass") if isinstance(content, str) else content)
    said = ""
    try:
        if suffix in ("json", "yml"):
            assert isinstance(read_config(path), dict)
        else:
            read_statistics(path, 4)
    except BundleError as error:
        said = str(error)
    assert len(said) < 500


SIZES = {
    "layers": {"stacks": 10**9},
    "a long list": {"upsample_scales": [1] * 9000},
    "channels": {"channels": 10**9},
    "bands": {"out_channels": 4, "pqmf_params": {"taps": 10**9, "cutoff_ratio": 0.1, "beta": 9.0}},
    "an unknown one": {"x": 1},
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_that_no_generator_has_are_refused_in_any_file(tmp_path: Path, name: str) -> None:
    path = checkpoint(tmp_path, "melgan.v1")
    config = LJSPEECH | {"generator_type": "MelGANGenerator", "generator_params": MELGAN | SIZES[name]}
    (tmp_path / "config.yml").write_text(yaml.dump(config))
    with within(20), pytest.raises(BundleError) as refused:
        vocoder(path)
    assert len(str(refused.value)) < 500


def test_mel_bins_that_no_memory_holds_are_refused_in_any_file(tmp_path: Path) -> None:
    """Where the logarithm is another than that of ten, the statistics are made of their number."""
    path = hifigan_checkpoint(tmp_path)[0]
    (tmp_path / "config.json").write_text(json.dumps(HIFIGAN_CONFIG | {"num_mels": 10**12}))
    with within(20), pytest.raises(BundleError, match=r"config\.json: .*mel bins of at most 65536"):
        vocoder(path)
    path = checkpoint(tmp_path, "natural logarithm")
    config = LJSPEECH | PUBLISHED["natural logarithm"] | {"num_mels": 10**12}
    (tmp_path / "config.yml").write_text(yaml.dump(config))
    with within(20), pytest.raises(BundleError, match=r"config\.yml: .*mel bins of at most 65536"):
        vocoder(path, stats="none")


def test_weights_whose_names_hold_many_digits_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save({"model.1.weight": torch.zeros(1, 1, 1), f"model.{'9' * 5000}.weight": torch.zeros(1, 1, 1)}, path)
    with pytest.raises(BundleError, match=r"m\.pt") as refused:
        vocoder(path)
    assert len(str(refused.value)) < 500
