"""Vocoders: the contract, ragged exactness, parity with parallel-wavegan, and refusals of bad bundles."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from conftest import HIFIGAN, MELGAN, PARALLEL_WAVEGAN, RECIPE
from foreign_files import within
from safetensors.torch import load_file, save_file
from torch import nn

from armory_mdnf.audio.files import read_audio
from armory_mdnf.audio.noise import stream
from armory_mdnf.cpu.switch import VARIABLE, WAYS
from armory_mdnf.data.bundled import load_split
from armory_mdnf.errors import AudioError, BundleError, OptionError
from armory_mdnf.files import bundles
from armory_mdnf.vocoders import Vocoder, load_vocoder, make_vocoder, save_vocoder
from armory_mdnf.vocoders._parallel_wavegan import PQMF, HiFiGANGenerator, MelGANGenerator, ParallelWaveGANGenerator

PWG = PARALLEL_WAVEGAN | {"aux_context_window": 2}
PWG_ON_MELGAN = PWG | {
    "aux_channels": 6,
    "aux_context_window": 0,
    "upsample_net": "MelGANGenerator",
    "upsample_params": MELGAN | {"out_channels": 6},
}
MULTI_BAND = MELGAN | {
    "out_channels": 4,
    "upsample_scales": [4, 4],
    "pqmf_params": {"taps": 62, "cutoff_ratio": 0.142, "beta": 9.0},
}
CONFIGS = {
    "melgan": MELGAN,
    "melgan multi-band": MULTI_BAND,
    "parallel_wavegan": PWG,
    "parallel_wavegan on melgan": PWG_ON_MELGAN,
    "hifigan": HIFIGAN,
}
THEIRS = {"melgan": MelGANGenerator, "parallel_wavegan": ParallelWaveGANGenerator, "hifigan": HiFiGANGenerator}
LENGTHS = (1200, 640, 2000)


def tiny(kind: str, seed: int = 0) -> Vocoder:
    torch.manual_seed(seed)
    mean, scale = torch.randn(20), torch.rand(20) + 0.5
    vocoder = make_vocoder(kind.split()[0], RECIPE, CONFIGS[kind], mean, scale).requires_grad_(False)
    for weight in vocoder.generator.parameters():  # MelGAN's own start is too small to tell right from wrong
        weight.normal_(0, 0.15)
    return vocoder


def utterances(lengths: tuple[int, ...] = LENGTHS) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [0.3 * torch.randn(n) for n in lengths]


def batch(parts: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True), torch.tensor([len(p) for p in parts])


def resynthesize(vocoder: Vocoder, x: torch.Tensor, lengths: torch.Tensor, noises: list[torch.Tensor]) -> torch.Tensor:
    log_mel, frames = vocoder.mel(x, lengths)
    noise = torch.nn.utils.rnn.pad_sequence(noises, batch_first=True)[:, None] if vocoder.needs_noise else None
    return vocoder.synthesize(log_mel, frames, noise)


def noises(lengths: tuple[int, ...] = LENGTHS) -> list[torch.Tensor]:
    torch.manual_seed(2)
    return [torch.randn(int(RECIPE.frames(torch.tensor(n))) * RECIPE.hop) for n in lengths]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_an_utterance_does_not_depend_on_its_batch(kind: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, and as on a GPU."""
    vocoder, parts, z = tiny(kind), utterances(), noises()
    monkeypatch.setenv(VARIABLE, way)
    x, lengths = batch(parts)
    x.requires_grad_()
    together = resynthesize(vocoder, x, lengths, z)
    weight = torch.randn(together.shape, generator=torch.Generator().manual_seed(3))
    (gradient,) = torch.autograd.grad((together * weight).sum(), x)
    assert together.shape == (3, max(len(n) for n in z))
    for i, part in enumerate(parts):
        alone_in = part[None].clone().requires_grad_()
        alone = resynthesize(vocoder, alone_in, lengths[i : i + 1], z[i : i + 1])[0]
        size = len(z[i])
        assert alone.shape == (size,)
        assert alone.std() > 1e-3
        torch.testing.assert_close(together[i, :size], alone, atol=1e-5, rtol=1e-5)
        assert not together[i, size:].any()
        (alone_gradient,) = torch.autograd.grad((alone * weight[i, :size]).sum(), alone_in)
        difference = (gradient[i, : len(part)] - alone_gradient[0]).norm() / alone_gradient.norm()
        assert difference < 1e-4
        assert not gradient[i, len(part) :].any()


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_ragged_path_and_the_uniform_path_agree(kind: str) -> None:
    vocoder = tiny(kind)
    log_mel, frames = torch.randn(2, 20, 12), torch.tensor([12, 12])
    noise = torch.randn(2, 1, 12 * 64)
    a, b = vocoder.generate(log_mel, noise), vocoder.generate_ragged(log_mel, frames, noise)
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_ragged_batch_waits_for_nothing_on_its_device(kind: str) -> None:
    """On the meta device, as on a GPU; there asking for a value, for which a GPU would be waited for, raises."""
    vocoder = tiny(kind).to("meta")
    log_mel, noise = (
        torch.empty(2, 20, 12, device="meta", requires_grad=True),
        torch.empty(2, 1, 12 * 64, device="meta"),
    )
    wave = vocoder.generate_ragged(log_mel, torch.tensor([12, 9]), noise)
    (gradient,) = torch.autograd.grad(wave.sum(), log_mel)
    assert (wave.device.type, wave.shape, gradient.shape) == ("meta", noise.shape, log_mel.shape)


@pytest.mark.parametrize("kind", CONFIGS)
def test_parity_with_parallel_wavegans_own_inference(kind: str, tmp_path: Path) -> None:
    """Weight norm on, as trained there; off, saved, loaded, as used here."""
    torch.manual_seed(0)
    arguments = copy.deepcopy(CONFIGS[kind])
    filters = arguments.pop("pqmf_params", None)
    theirs = THEIRS[kind.split()[0]](**arguments)
    if filters:
        theirs.pqmf = PQMF(arguments["out_channels"], **filters)
    for weight in theirs.parameters():
        weight.data.normal_(0, 0.15)
    log_mel, noise = torch.randn(1, 20, 9), torch.randn(1, 1, 9 * 64)
    with torch.no_grad():
        c = log_mel[0].T
        expected = theirs.inference(c, noise[0].T) if kind.startswith("parallel") else theirs.inference(c)
    theirs.remove_weight_norm()
    vocoder = make_vocoder(kind.split()[0], RECIPE, CONFIGS[kind])
    vocoder.generator.load_state_dict(theirs.state_dict())
    save_vocoder(tmp_path / "v.safetensors", vocoder)
    ours = load_vocoder(tmp_path / "v.safetensors")
    wave = ours.synthesize(log_mel, torch.tensor([9]), noise if ours.needs_noise else None)
    torch.testing.assert_close(wave[0], expected[:, 0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", CONFIGS)
def test_saving_and_loading_keeps_everything(kind: str, tmp_path: Path) -> None:
    vocoder = tiny(kind)
    save_vocoder(tmp_path / "v.safetensors", vocoder, {"steps": 3})
    state = torch.random.get_rng_state()
    again = load_vocoder(tmp_path / "v.safetensors")
    assert torch.equal(state, torch.random.get_rng_state())
    assert again.recipe == vocoder.recipe
    assert again.kind == kind.split()[0]
    assert not again.training
    assert not any(p.requires_grad for p in again.parameters())
    x, lengths = batch(utterances())
    a, b = (resynthesize(v, x, lengths, noises()) for v in (vocoder, again))
    assert torch.equal(a, b)


@pytest.mark.parametrize("kind", CONFIGS)
def test_gradient_is_finite_on_digital_silence(kind: str) -> None:
    vocoder = tiny(kind)
    x = torch.zeros(1, 1500, requires_grad=True)
    log_mel, frames = vocoder.mel(x, torch.tensor([1500]))
    noise = torch.randn(1, 1, log_mel.shape[-1] * 64) if vocoder.needs_noise else None
    wave = vocoder.synthesize(log_mel, frames, noise)
    wave.sum().backward()
    assert wave.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_parallel_wavegan_uses_its_noise() -> None:
    vocoder = tiny("parallel_wavegan")
    log_mel, frames = torch.randn(1, 20, 9), torch.tensor([9])
    a, b = (vocoder.synthesize(log_mel, frames, torch.randn(1, 1, 9 * 64)) for _ in range(2))
    assert (a - b).std() > 0.01 * a.std()


@pytest.mark.parametrize("both", [True, False])
def test_parallel_wavegan_has_a_gradient_in_its_noise(both: bool) -> None:
    vocoder = tiny("parallel_wavegan").requires_grad_(False)
    log_mel, noise = torch.randn(1, 20, 9, requires_grad=both), torch.randn(1, 1, 9 * 64, requires_grad=True)
    vocoder.synthesize(log_mel, torch.tensor([9]), noise).square().sum().backward()
    assert noise.grad is not None
    assert noise.grad.any()
    assert (log_mel.grad is not None) is both


@pytest.mark.parametrize("kind", CONFIGS)
def test_frozen_vocoders_take_autocast(kind: str) -> None:
    vocoder = tiny(kind).requires_grad_(False)
    log_mel = torch.randn(1, 20, 9)
    noise = torch.randn(1, 1, 9 * 64) if vocoder.needs_noise else None
    plain = vocoder.synthesize(log_mel, torch.tensor([9]), noise)
    with torch.autocast("cpu", torch.bfloat16):
        wave = vocoder.synthesize(log_mel, torch.tensor([9]), noise)
    assert (wave.float() - plain).norm() < 0.2 * plain.norm()  # eight bits of a number


@pytest.mark.parametrize("kind", CONFIGS)
def test_too_short_an_utterance_is_refused_with_the_minimum(kind: str) -> None:
    vocoder = tiny(kind)
    shortest = vocoder.min_samples
    x = torch.randn(1, shortest - 1)
    with pytest.raises(AudioError, match=f"at least {shortest} samples"):
        vocoder.mel(x, torch.tensor([shortest - 1]))
    z = [torch.randn(int(RECIPE.frames(torch.tensor(shortest))) * RECIPE.hop)]
    assert resynthesize(vocoder, torch.randn(1, shortest), torch.tensor([shortest]), z).isfinite().all()


@pytest.mark.parametrize("factor", [0.5, 2])
def test_a_generator_of_another_length_is_told_in_a_batch_too(factor: float) -> None:
    """Padded or cropped to that of the batch, an utterance would end in silence, or early."""
    vocoder = tiny("melgan")
    generate = vocoder.generate
    vocoder.generate = lambda *args: nn.functional.interpolate(generate(*args), scale_factor=factor)  # type: ignore
    frames = torch.tensor([20, 30])
    with pytest.raises(AudioError, match=r"^vocoder MelGAN: expected shape \(1, 1, "):
        vocoder.synthesize(torch.zeros(2, vocoder.recipe.n_mels, 30), frames)


def test_wrong_shapes_and_noise_are_refused() -> None:
    melgan, pwg = tiny("melgan"), tiny("parallel_wavegan")
    log_mel, frames = torch.randn(1, 20, 9), torch.tensor([9])
    with pytest.raises(AudioError, match=r"log mel \(N, 20, F\)"):
        melgan.synthesize(torch.randn(1, 80, 9), frames)
    with pytest.raises(AudioError, match="between 4 and 9 frames"):
        melgan.synthesize(log_mel, torch.tensor([3]))
    with pytest.raises(AudioError, match="between 4 and 9 frames"):
        melgan.synthesize(log_mel, torch.tensor([10]))
    with pytest.raises(AudioError, match="takes no noise"):
        melgan.synthesize(log_mel, frames, torch.randn(1, 1, 576))
    with pytest.raises(AudioError, match="needs noise"):
        pwg.synthesize(log_mel, frames)
    with pytest.raises(AudioError, match=r"noise of shape \(1, 1, 576\), got \(1, 1, 500\)"):
        pwg.synthesize(log_mel, frames, torch.randn(1, 1, 500))


def test_unknown_kinds_and_arguments_are_refused() -> None:
    with pytest.raises(OptionError, match="did you mean 'melgan'"):
        make_vocoder("mel_gan", RECIPE, MELGAN)
    with pytest.raises(OptionError, match=r"'chanels'.*did you mean 'channels'"):
        make_vocoder("melgan", RECIPE, {"chanels": 64})
    with pytest.raises(OptionError, match="256 samples per frame does not fit"):
        make_vocoder("melgan", RECIPE, MELGAN | {"upsample_scales": [8, 8, 2, 2], "channels": 256})


def test_conditioning_networks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(OptionError, match="unknown upsample_net 'MelGan'"):
        make_vocoder("parallel_wavegan", RECIPE, PWG_ON_MELGAN | {"upsample_net": "MelGan"})
    with pytest.raises(OptionError, match="as many out_channels as aux_channels, got 0, 6 and 7"):
        make_vocoder("parallel_wavegan", RECIPE, PWG_ON_MELGAN | {"aux_channels": 7})
    with pytest.raises(OptionError, match="option of upsample_params"):
        make_vocoder("parallel_wavegan", RECIPE, PWG | {"upsample_params": MELGAN})


def rewrite(path: Path, change_tensors=None, **metadata: str) -> None:
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as f:
        old = dict(f.metadata())
    tensors = load_file(path)
    if change_tensors:
        change_tensors(tensors)
    save_file(tensors, path, metadata=old | metadata)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "v.safetensors"
    save_vocoder(path, tiny("melgan"))
    return path


def test_damaged_bundles_are_refused(saved: Path) -> None:
    data = saved.read_bytes()
    for damaged in (data[: len(data) // 2], data[:5], b"", b"\x80\x04 pickle" * 20):
        saved.write_bytes(damaged)
        with pytest.raises(BundleError, match=r"v\.safetensors is not a readable safetensors file"):
            load_vocoder(saved)
    saved.unlink()
    with pytest.raises(BundleError, match="no weight file"):
        load_vocoder(saved)
    with pytest.raises(BundleError, match="unknown bundled weights 'melgen'"):
        load_vocoder("melgen")


def test_bundles_of_another_kind_or_configuration_are_refused(saved: Path) -> None:
    bundles.save(saved, "deepspeech2", {}, {"a": torch.zeros(1)})
    with pytest.raises(BundleError, match="kind 'melgan' or 'parallel_wavegan' or 'hifigan', found 'deepspeech2'"):
        load_vocoder(saved)
    for config in ("[]", "{}", "not json", '{"mel": {}, "generator": {}}', '{"mel": 3, "generator": {}}'):
        save_vocoder(saved, tiny("melgan"))
        rewrite(saved, config=config)
        with pytest.raises(BundleError, match=r"v\.safetensors"):
            load_vocoder(saved)


@pytest.mark.parametrize(
    "generator",
    [
        {"channels": 2**30},
        {"channels": -64},
        {"channels": "64"},
        {"upsample_scales": []},
        {"upsample_scales": [0, 64]},
        {"upsample_scales": 64},
        {"stacks": 0.5},
        {"stack_kernel_size": 4},
        {"in_channels": 21},
        {"pqmf": True},
        {"pqmf_params": {"taps": 62, "cutoff_ratio": 0.142, "beta": 9.0}},
        {"out_channels": 2, "upsample_scales": [8, 4]},
        {"out_channels": 2, "upsample_scales": [8, 4], "pqmf_params": {"taps": 10**12, "cutoff_ratio": 0.1, "beta": 9}},
    ],
)
def test_hostile_generator_arguments_are_refused(saved: Path, generator: dict[str, object]) -> None:
    config, tensors = bundles.load(saved, "melgan")
    config["generator"] = MELGAN | generator
    bundles.save(saved, "melgan", config, tensors)
    with pytest.raises(BundleError, match=r"v\.safetensors"):
        load_vocoder(saved)


DEEP = {"channels": 1 << 16, "stacks": 256, "stack_kernel_size": 1, "upsample_scales": [8, 4, 2] + [1] * 13}
BLOCKS: dict[str, dict[str, object]] = {
    "hifigan": {"resblock_kernel_sizes": [3] * 64, "resblock_dilations": [[1] * 64] * 64},
    "melgan": DEEP,
    "parallel_wavegan on melgan": {"upsample_params": PWG_ON_MELGAN["upsample_params"] | DEEP},
}


@pytest.mark.parametrize("kind", BLOCKS)
def test_more_blocks_than_a_generator_has_are_not_described(tmp_path: Path, kind: str) -> None:
    """A few bytes of lists, each within its bounds, whose product would take minutes and gigabytes."""
    path = tmp_path / "v.safetensors"
    save_vocoder(path, tiny(kind))
    config, tensors = bundles.load(path, kind.split()[0])
    config["generator"] |= BLOCKS[kind]
    bundles.save(path, kind.split()[0], config, tensors)
    with within(20), pytest.raises(BundleError, match=r"at most 1024 residual blocks, got one of \d{4,}"):
        load_vocoder(path)


def test_filters_that_no_spectrogram_has_are_not_made(saved: Path) -> None:
    """Each size is within its bounds; the filters come before any weight is looked at."""
    config, tensors = bundles.load(saved, "melgan")
    config["mel"] |= {"n_fft": 1 << 13, "n_mels": 1 << 13}
    config["generator"]["in_channels"] = 1 << 13
    bundles.save(saved, "melgan", config, tensors)
    with pytest.raises(BundleError, match=r"filters of at most 4194304 numbers, .* which make 33562624"):
        load_vocoder(saved)


@pytest.mark.parametrize("dtype", ["int8", "bool", "complex64", "float8_e4m3fn", "float8_e8m0fnu"])
@pytest.mark.parametrize("key", ["generator.melgan.1.weight", "mel.mean", "mel.scale"])
def test_weights_that_stand_for_others_are_refused(saved: Path, dtype: str, key: str) -> None:
    """Of quantised weights the scale is missing: as they are, they are other weights."""
    rewrite(saved, lambda t: t.update({key: torch.ones_like(t[key]).to(getattr(torch, dtype))}))
    with pytest.raises(BundleError, match=rf"weight '({key}|melgan\.1\.weight)'.*found torch\.{dtype}"):
        load_vocoder(saved)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_computed_with_in_single(saved: Path, dtype: torch.dtype) -> None:
    before = {key: value.to(dtype).float() for key, value in load_vocoder(saved).generator.state_dict().items()}
    rewrite(saved, lambda t: t.update({key: value.to(dtype) for key, value in t.items()}))
    after = load_vocoder(saved).generator.state_dict()
    assert all(after[key].dtype == torch.float32 and torch.equal(after[key], before[key]) for key in before)


def test_misshapen_missing_and_unexpected_weights_are_named(saved: Path) -> None:
    key = "generator.melgan.1.weight"

    def misshape(t: dict[str, torch.Tensor]) -> None:
        t[key] = t[key][:, :-1].contiguous()

    changes = {
        r"v\.safetensors: expected weight 'melgan\.1\.weight' of shape \(64, 20, 7\), found \(64, 19, 7\)": misshape,
        r"expected weight 'melgan\.1\.weight' of shape \(64, 20, 7\), found none": lambda t: t.pop(key),
        r"expected finite numbers in weight 'melgan\.1\.weight'": lambda t: t[key].fill_(torch.nan),
        r"found weight 'extra', which": lambda t: t.update({"generator.extra": torch.zeros(1)}),
        r"named generator\.\*, found 'extra'": lambda t: t.update({"extra": torch.zeros(1)}),
        r"both mean and scale": lambda t: t.pop("mel.mean"),
        r"mean of 20 finite values": lambda t: t.update({"mel.mean": torch.zeros(19)}),
        r"scale of each mel bin to be > 0": lambda t: t["mel.scale"].zero_(),
    }
    for message, change in changes.items():
        save_vocoder(saved, tiny("melgan"))
        rewrite(saved, change)
        with pytest.raises(BundleError, match=message):
            load_vocoder(saved)


# What the shipped weights reached on these utterances, less a margin: intelligibility (STOI), level change in dB, and
# mean distance of the log mel in its own deviations.
BUNDLED = {"melgan": (0.83, -3.0, 0.35), "pwg": (0.5, -9.0, 0.6)}


@pytest.mark.parametrize("name", sorted(set(BUNDLED) & set(bundles.bundled_names())))
def test_bundled_weights_resynthesise_a_bundled_utterance(name: str) -> None:
    least_stoi, least_level_db, most_distance = BUNDLED[name]
    vocoder = load_vocoder(name)
    assert vocoder.sample_rate_hz == 16000
    for utterance in load_split("human", "dev")[:2]:
        audio, rate_hz = read_audio(utterance.path)
        assert rate_hz == 16000
        x, lengths = torch.from_numpy(audio)[None], torch.tensor([len(audio)])
        log_mel, frames = vocoder.mel(x, lengths)
        noise = torch.randn(1, 1, log_mel.shape[-1] * 256, generator=stream(0)) if vocoder.needs_noise else None
        wave = vocoder.synthesize(log_mel, frames, noise)[:, : len(audio)]
        level_db = 20 * torch.log10(wave.std() / x.std())
        assert least_level_db < level_db < 3
        again, _ = vocoder.mel(wave, lengths)
        loud = log_mel > log_mel.mean()
        assert (again - log_mel)[loud].abs().mean() < most_distance
        pystoi = pytest.importorskip("pystoi")
        assert pystoi.stoi(audio, wave[0].numpy(), 16000) > least_stoi
