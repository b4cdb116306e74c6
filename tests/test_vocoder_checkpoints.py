"""Vocoders from other projects' checkpoints: parity with what the projects themselves compute, and refusals."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from foreign_files import Malicious
from torch import Tensor

from armory_mdnf.audio.mel import MELGAN_DESCRIPT
from armory_mdnf.errors import BundleError
from armory_mdnf.files.foreign import Imported, read_checkpoint
from armory_mdnf.vocoders import Vocoder, load_vocoder, save_vocoder
from armory_mdnf.vocoders._parallel_wavegan import HiFiGANGenerator, MelGANGenerator, ParallelWaveGANGenerator
from armory_mdnf.vocoders.formats import import_vocoder
from armory_mdnf.vocoders.importing import fold_weight_norm

DATA = Path(__file__).parent / "data"
GENERATORS = {
    "MelGANGenerator": MelGANGenerator,
    "ParallelWaveGANGenerator": ParallelWaveGANGenerator,
    "HiFiGANGenerator": HiFiGANGenerator,
}

# The published recipes of parallel-wavegan, their keys as they are there, their widths smaller. The hop is 256.
MELGAN = {
    "in_channels": 80,
    "out_channels": 1,
    "kernel_size": 7,
    "channels": 256,
    "upsample_scales": [8, 8, 2, 2],
    "stack_kernel_size": 3,
    "stacks": 3,
    "use_weight_norm": True,
    "use_causal_conv": False,
}
PWG = {
    "in_channels": 1,
    "out_channels": 1,
    "kernel_size": 3,
    "layers": 6,
    "stacks": 3,
    "residual_channels": 8,
    "gate_channels": 16,
    "skip_channels": 8,
    "aux_channels": 80,
    "aux_context_window": 2,
    "dropout": 0.0,
    "use_weight_norm": True,
    "upsample_net": "ConvInUpsampleNetwork",
    "upsample_params": {"upsample_scales": [4, 4, 4, 4]},
}
PWG_V3 = PWG | {
    "aux_channels": 16,
    "aux_context_window": 0,
    "upsample_net": "MelGANGenerator",
    "upsample_params": {
        "upsample_scales": [4, 4, 4, 4],
        "in_channels": 80,
        "out_channels": 16,
        "kernel_size": 7,
        "channels": 256,
        "use_final_nonlinear_activation": False,
        "use_weight_norm": False,
    },
}
MULTI_BAND = MELGAN | {"out_channels": 4, "channels": 96, "upsample_scales": [8, 4, 2], "stacks": 4}
HIFIGAN = {
    "in_channels": 80,
    "out_channels": 1,
    "channels": 32,
    "kernel_size": 7,
    "upsample_scales": [8, 8, 2, 2],
    "upsample_kernel_sizes": [16, 16, 4, 4],
    "resblock_kernel_sizes": [3, 7],
    "resblock_dilations": [[1, 3], [1, 3]],
    "use_additional_convs": True,
    "bias": True,
    "nonlinear_activation": "LeakyReLU",
    "nonlinear_activation_params": {"negative_slope": 0.1},
    "use_weight_norm": True,
}
ACTIVATION = {"nonlinear_activation": "LeakyReLU", "nonlinear_activation_params": {"negative_slope": 0.2}}
PUBLISHED: dict[str, dict[str, Any]] = {
    "melgan.v1": {"generator_type": "MelGANGenerator", "generator_params": MELGAN},
    "melgan.v3": {"generator_type": "MelGANGenerator", "generator_params": MELGAN | ACTIVATION | {"stacks": 4}},
    "parallel_wavegan.v1": {"generator_params": PWG},  # its recipe names no type
    "parallel_wavegan.v3": {"generator_type": "ParallelWaveGANGenerator", "generator_params": PWG_V3},
    "multi_band_melgan.v2": {"generator_type": "MelGANGenerator", "generator_params": MULTI_BAND, "version": "0.5.1"},
    "multi_band_melgan.v2 of old": {"generator_type": "MelGANGenerator", "generator_params": MULTI_BAND},
    "hifigan.v1": {"generator_type": "HiFiGANGenerator", "generator_params": HIFIGAN},
    "libritts_parallel_wavegan.v1": {
        "generator_params": PWG | {"upsample_params": {"upsample_scales": [4, 5, 3, 5]}},
        "sampling_rate": 24000,
        "fft_size": 2048,
        "hop_size": 300,
        "win_length": 1200,
        "format": "npy",
    },
    "natural logarithm": {
        "generator_type": "MelGANGenerator",
        "generator_params": MELGAN,
        "log_base": None,
        "global_gain_scale": 0.0,
    },
}
LJSPEECH = {
    "sampling_rate": 22050,
    "fft_size": 1024,
    "hop_size": 256,
    "win_length": None,
    "window": "hann",
    "num_mels": 80,
    "fmin": 80,
    "fmax": 7600,
    "format": "hdf5",
    "discriminator_params": {"scales": 3},
}


def checkpoint(folder: Path, name: str) -> Path:
    """A random generator in parallel-wavegan's own format, with its configuration and statistics beside it."""
    from parallel_wavegan.utils import write_hdf5

    config = LJSPEECH | copy.deepcopy(PUBLISHED[name])
    kind = config.get("generator_type", "ParallelWaveGANGenerator")
    torch.manual_seed(len(name))
    generator = GENERATORS[kind](**copy.deepcopy(config["generator_params"]))
    for key, weight in generator.named_parameters():
        weight.data.normal_(0, 0.1) if not key.endswith("weight_g") else weight.data.abs_()
    path = folder / "checkpoint-400000steps.pkl"
    content = {"model": {"generator": generator.state_dict(), "discriminator": {}}, "optimizer": {}, "steps": 400000}
    torch.save(content, path)
    (folder / "config.yml").write_text(yaml.dump(config))
    rng = np.random.default_rng(0)
    mean, scale = rng.normal(-2, 0.5, 80).astype(np.float32), rng.uniform(0.4, 1, 80).astype(np.float32)
    if config["format"] == "npy":
        np.save(folder / "stats.npy", np.stack([mean, scale]))
    else:
        write_hdf5(str(folder / "stats.h5"), "mean", mean)
        write_hdf5(str(folder / "stats.h5"), "scale", scale)
    return path


def read(path: Path, **files: Path) -> Imported[Vocoder]:
    return import_vocoder(read_checkpoint(path), path, **files)


def logmelfilterbank(audio: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """parallel-wavegan's own features."""
    from parallel_wavegan.bin.preprocess import logmelfilterbank as theirs

    names = ("sampling_rate", "fft_size", "hop_size", "win_length", "window", "num_mels", "fmin", "fmax")
    return theirs(audio, **{k: config[k] for k in names}, log_base=config.get("log_base", 10.0))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", PUBLISHED)
def test_parity_with_parallel_wavegans_own_features_and_inference(name: str, tmp_path: Path) -> None:
    """Their load_model, their features, normalised by them, against ours from the converted bundle."""
    pytest.importorskip("librosa")
    from parallel_wavegan.utils import load_model

    path = checkpoint(tmp_path, name)
    imported = read(path)
    assert "model: discriminator" in imported.left
    assert "steps" in imported.left
    save_vocoder(tmp_path / "v.safetensors", imported.module)
    ours = load_vocoder(tmp_path / "v.safetensors")

    theirs = load_model(str(path))
    theirs.remove_weight_norm()
    config = LJSPEECH | PUBLISHED[name]
    rng = np.random.default_rng(1)
    audio = (0.1 * rng.standard_normal(9001) * np.sin(np.arange(9001) / 900)).astype(np.float32)
    features = logmelfilterbank(audio, config)
    log_mel, frames = ours.mel(torch.from_numpy(audio)[None], torch.tensor([len(audio)]))
    normalised = (features - theirs.mean.numpy()) / theirs.scale.numpy()
    np.testing.assert_allclose(log_mel[0].T.numpy(), normalised, atol=5e-3)
    assert np.abs(log_mel[0].T.numpy() - normalised).mean() < 1e-4

    noise = torch.randn(1, 1, int(frames) * ours.recipe.hop)
    arguments = (noise[0].T,) if ours.needs_noise else ()
    with torch.no_grad():
        expected = theirs.eval().inference(log_mel[0].T, *arguments)[:, 0]
        from_features = theirs.inference(torch.from_numpy(features), *arguments, normalize_before=True)[:, 0]
    wave = ours.synthesize(log_mel, frames, noise if ours.needs_noise else None)[0]
    assert wave.std() > 1e-3
    torch.testing.assert_close(wave, expected, atol=1e-5, rtol=1e-4)
    assert (wave - from_features).norm() < 0.02 * from_features.norm()


def test_parity_with_descripts_generator() -> None:
    """descript's own state dict, log mel and wave (random weights)."""
    imported = read(DATA / "melgan_descript.pt")
    assert imported.module.recipe == MELGAN_DESCRIPT
    assert imported.left == ()
    golden = np.load(DATA / "melgan_descript_wave.npz")
    log_mel = torch.from_numpy(golden["log_mel"])[None]
    wave = imported.module.synthesize(log_mel, torch.tensor([log_mel.shape[-1]]))
    np.testing.assert_allclose(wave[0].numpy(), golden["wave"] / 32767, atol=1e-4)
    assert golden["wave"].std() > 1000


def test_a_published_descript_size_is_read(tmp_path: Path) -> None:
    """32 filters and 3 residual layers, as in multi_speaker.pt: 512 channels, 4.26 million weights."""
    generator = MelGANGenerator(channels=512, use_weight_norm=False).state_dict()
    renamed = {
        k.replace("melgan.", "model.").replace(".stack.", ".block.").replace(".skip_layer.", ".shortcut."): v
        for k, v in generator.items()
    }
    torch.save(renamed, tmp_path / "multi_speaker.pt", _use_new_zipfile_serialization=False)
    vocoder = read(tmp_path / "multi_speaker.pt").module
    assert vocoder.generator_config["channels"] == 512
    assert sum(p.numel() for p in vocoder.generator.parameters()) == 4_260_257


HIFIGAN_CONFIG = {
    "resblock": "1",
    "upsample_rates": [8, 8, 2, 2],
    "upsample_kernel_sizes": [16, 16, 4, 4],
    "upsample_initial_channel": 32,
    "resblock_kernel_sizes": [3, 7],
    "resblock_dilation_sizes": [[1, 3], [1, 3]],
    "num_mels": 80,
    "n_fft": 1024,
    "hop_size": 256,
    "win_size": 1024,
    "sampling_rate": 22050,
    "fmin": 0,
    "fmax": 8000,
}


def hifigan_checkpoint(folder: Path, resblock: str = "1") -> tuple[Path, HiFiGANGenerator]:
    """A generator under HiFi-GAN's own names."""
    torch.manual_seed(0)
    arguments = HIFIGAN | {"use_additional_convs": resblock == "1"}
    generator = HiFiGANGenerator(**arguments)
    state = {}
    for key, value in generator.state_dict().items():
        parts = key.split(".")
        if parts[0] == "blocks":
            group = parts[2] if resblock == "1" else "convs"
            parts = ["resblocks", parts[1], group, parts[3], parts[5]]
        else:
            layer = {"input_conv": "conv_pre", "upsamples": "ups", "output_conv": "conv_post"}[parts[0]]
            parts = [layer, *(parts[1:2] if layer == "ups" else []), parts[-1]]
        state[".".join(parts)] = value
    torch.save({"generator": state}, folder / "g_02500000")
    (folder / "config.json").write_text(json.dumps(HIFIGAN_CONFIG | {"resblock": resblock}))
    return folder / "g_02500000", generator


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("resblock", ["1", "2"])
def test_hifigans_own_checkpoints(tmp_path: Path, resblock: str) -> None:
    path, theirs = hifigan_checkpoint(tmp_path, resblock)
    vocoder = read(path).module
    log_mel = torch.randn(1, 80, 9)
    with torch.no_grad():
        expected = theirs(log_mel)[:, 0]
    wave = vocoder.synthesize(log_mel, torch.tensor([9]))
    torch.testing.assert_close(wave, expected, atol=1e-5, rtol=1e-4)


def test_hifigans_front_end_is_its_natural_logarithm(tmp_path: Path) -> None:
    """The recipe written down again: reflection, magnitude with 1e-9, librosa's mel filters, ln of at least 1e-5."""
    librosa = pytest.importorskip("librosa")
    vocoder = read(hifigan_checkpoint(tmp_path)[0]).module
    audio = 0.1 * torch.randn(1, 6000, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(audio[:, None], (384, 384), mode="reflect")[:, 0]
    stft = torch.stft(padded, 1024, 256, window=torch.hann_window(1024), center=False, return_complex=True)
    magnitude = (torch.view_as_real(stft).square().sum(-1) + 1e-9).sqrt()
    filters = torch.from_numpy(librosa.filters.mel(sr=22050, n_fft=1024, n_mels=80, fmin=0, fmax=8000))
    expected = (filters @ magnitude).clamp(min=1e-5).log()
    log_mel, _ = vocoder.mel(audio, torch.tensor([6000]))
    torch.testing.assert_close(log_mel, expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("style", ["old", "new"])
def test_weight_norm_is_folded(style: str) -> None:
    apply = torch.nn.utils.weight_norm if style == "old" else torch.nn.utils.parametrizations.weight_norm
    with pytest.warns(FutureWarning) if style == "old" else torch.no_grad():
        layer = apply(torch.nn.ConvTranspose1d(3, 4, 5))
    folded = fold_weight_norm(layer.state_dict(), Path("x"))
    assert set(folded) == {"weight", "bias"}
    torch.testing.assert_close(folded["weight"], layer.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.1.weight_g": None}, r"expected 'model\.1\.weight_g' of shape \(128, 1, 1\), found none"),
        ({"model.1.weight_v": None}, r"'model\.1\.weight_g' is a weight's length, and its direction is missing"),
        ({"model.4.block.2.bias": None}, r"expected weight 'melgan\.4\.stack\.2\.bias' of shape \(64,\), found none"),
        ({"model.24.bias": torch.zeros(2)}, r"'melgan\.24\.bias' of shape \(1,\), found \(2,\)"),
        ({"model.1.bias": torch.full((128,), torch.nan)}, "finite"),
        ({"extra": torch.zeros(2)}, "found weight 'extra'"),
        ({"model.1.bias": "text"}, r"a tensor under 'model\.1\.bias', found str"),
        ({"model.1.weight_v": torch.zeros(128, 40, 7)}, "generator of 40 mel bins"),
        ({f"model.{i}.weight_{p}": None for i in (3, 8, 13, 18) for p in "gv"}, "transposed ones"),
    ],
)
def test_descript_weights_that_do_not_fit_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    state = read_checkpoint(DATA / "melgan_descript.pt") | change
    path = tmp_path / "d.pt"
    torch.save({k: v for k, v in state.items() if v is not None}, path)
    with pytest.raises(BundleError, match=r"d\.pt: .*" + message):
        read(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"generator_type": "StyleMelGANGenerator"}, "unknown generator_type 'StyleMelGANGenerator'"),
        ({"generator_params": MELGAN | {"use_causal_conv": True}}, "expected use_causal_conv False, found True"),
        ({"generator_params": MELGAN | {"chanels": 2}}, "'chanels'.*did you mean 'channels'"),
        ({"generator_params": MELGAN | {"channels": 512}}, r"expected weight 'melgan\.1\.weight' of shape \(512"),
        ({"generator_params": MELGAN | {"out_channels": 10**6}}, "out_channels"),
        ({"generator_params": 3}, "no attribute"),
        ({"hop_size": 300}, "does not fit the mel recipe"),
        ({"hop_size": None}, "whole number"),
        ({"fft_size": 128}, "mel recipe"),
        ({"window": "hamming"}, "expected window 'hann', found 'hamming'"),
        ({"log_base": 3.0}, "expected log_base null, 2.0 or 10.0, found 3.0"),
        ({"sampling_rate_for_feats": 16000}, "sampling_rate_for_feats"),
        ({"num_mels": 40}, "40 numbers under 'mean'"),
        ({"global_gain_scale": 0.5}, "expected global_gain_scale 1.0, or none at 0.0, found 0.5"),
        ({"global_gain_scale": "1"}, "expected global_gain_scale 1.0, or none at 0.0, found '1'"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = checkpoint(tmp_path, "melgan.v1")
    (tmp_path / "config.yml").write_text(yaml.dump(LJSPEECH | PUBLISHED["melgan.v1"] | change))
    with pytest.raises(BundleError, match=message):
        read(path)


def test_a_missing_key_of_the_configuration_is_named(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, "melgan.v1")
    (tmp_path / "config.yml").write_text(yaml.dump({"sampling_rate": 22050}))
    with pytest.raises(BundleError, match=r"config\.yml: 'generator_params' is missing"):
        read(path)


def test_yaml_is_data(tmp_path: Path) -> None:
    path, marker = checkpoint(tmp_path, "melgan.v1"), tmp_path / "executed"
    text = (tmp_path / "config.yml").read_text()
    (tmp_path / "config.yml").write_text(f"{text}\nevil: !!python/object/apply:os.system ['touch {marker}']\n")
    with pytest.raises(BundleError, match=r"config\.yml is not a readable configuration"):
        read(path)
    assert not marker.exists()
    yaml.load((tmp_path / "config.yml").read_text(), Loader=yaml.UnsafeLoader)  # the file is live
    assert marker.exists()
    scales = "!!python/tuple [8, 8, 2, 2]"
    (tmp_path / "config.yml").write_text(text.replace("\n  - 8\n  - 8\n  - 2\n  - 2\n", f" {scales}\n"))
    assert scales in (tmp_path / "config.yml").read_text()
    assert read(path).module.generator_config["upsample_scales"] == [8, 8, 2, 2]
    for bad in ("[1, 2", "- 1", "\x00", "a: &a [*a]\n" * 2, "x: " + "y" * (1 << 20)):
        (tmp_path / "config.yml").write_text(bad)
        with pytest.raises(BundleError, match=r"config\.yml"):
            read(path)


def test_a_malicious_checkpoint_executes_nothing(tmp_path: Path) -> None:
    marker, path = tmp_path / "executed", checkpoint(tmp_path, "melgan.v1")
    content = torch.load(path, weights_only=True)
    torch.save(content | {"optimizer": Malicious(marker)}, path)
    assert "optimizer" in read(path).left
    content["model"]["generator"]["melgan.1.bias"] = Malicious(marker)
    torch.save(content, path)
    with pytest.raises(BundleError, match=r"a tensor under 'melgan\.1\.bias', found Inert"):
        read(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()


def test_statistics_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, "libritts_parallel_wavegan.v1")
    stats = tmp_path / "stats.npy"
    bad: list[Any] = [np.zeros((2, 79)), np.zeros(80), np.full((2, 80), np.nan), np.zeros((2, 80)), np.array(["a"])]
    for values in bad:
        np.save(stats, values)
        with pytest.raises(BundleError, match=r"stats\.npy.*(mean|scale|real numbers)"):
            read(path)
    np.save(stats, np.array([{}, {}]), allow_pickle=True)
    with pytest.raises(BundleError, match=r"stats\.npy is not a readable \.npy file of numbers"):
        read(path)
    stats.write_bytes(b"")
    with pytest.raises(BundleError, match=r"stats\.npy"):
        read(path)
    (tmp_path / "stats.h5").write_bytes(b"no hdf5")
    with pytest.raises(BundleError, match=r"stats\.h5 is not a readable file of statistics"):
        read(path, stats=tmp_path / "stats.h5")
    stats.unlink()
    (tmp_path / "stats.h5").unlink()
    with pytest.raises(BundleError, match=r"needs .*stats\.npy or .*stats\.h5, which is not there; say .* --stats"):
        read(path)
    (tmp_path / "config.yml").unlink()
    with pytest.raises(BundleError, match=r"needs .*config\.yml or .*, which is not there; say where .* --config"):
        read(path)


def test_other_files_of_torch_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    for content in ({}, [], {"model": {}}, {"generator": {}}, Tensor([1.0])):
        torch.save(content, path)
        with pytest.raises(BundleError, match=r"m\.pt: expected a vocoder of descript's MelGAN"):
            read(path)


def test_odd_upsampling_of_hifigan_is_refused(tmp_path: Path) -> None:
    path, _ = hifigan_checkpoint(tmp_path)
    for change in (
        {"upsample_rates": [5, 5, 2, 2]},
        {"upsample_rates": [8, 8]},
        {"num_mels": "80"},
        {"fmax": math.inf},
    ):
        (tmp_path / "config.json").write_text(json.dumps(HIFIGAN_CONFIG | change))
        with pytest.raises(BundleError, match=r"config\.json"):
            read(path)
