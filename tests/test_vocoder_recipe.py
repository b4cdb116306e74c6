"""The vocoders' training recipe: segments, losses, resuming, export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from armory_mdnf.audio.files import write_flac
from armory_mdnf.audio.mel import LogMel
from armory_mdnf.errors import AudioError, BundleError, OptionError
from armory_mdnf.training import vocoder as recipe
from armory_mdnf.training.vocoder_data import Segments, find_recordings, read_all
from armory_mdnf.training.vocoder_losses import MultiResolutionSTFTLoss
from armory_mdnf.vocoders import load_vocoder, make_vocoder, save_vocoder

TINY = {"in_channels": 80, "channels": 256, "upsample_scales": [8, 8, 2, 2], "stacks": 1}


def chirp(samples: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / 16000
    return 0.3 * np.sin(2 * np.pi * (200 + 900 * time) * time) + 0.01 * rng.normal(size=samples)


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    for i in range(3):
        write_flac(tmp_path / "speech" / f"{i}.flac", chirp(16000 + 500 * i, i), 16000)
    return tmp_path / "speech"


def test_a_segments_mel_is_that_of_the_whole_utterance() -> None:
    x = torch.from_numpy(chirp(20000, 0)).float()
    segments = Segments([[x]], [1.0], recipe.RECIPE, 12288, gain_db=(0.0, 0.0))
    front_end = LogMel(recipe.RECIPE)
    whole, _ = front_end(x[None], torch.tensor([20000]))
    context, target = segments.batch(seed=0, step=0, size=6)
    parts = front_end.unpadded(context)
    assert parts.shape == (6, 80, 48)
    starts = set()
    for part, wave in zip(parts, target, strict=True):
        start = int(x.unfold(0, 12288, 1).sub(wave).abs().sum(1).argmin())
        assert start % 256 == 0
        starts.add(start)
        torch.testing.assert_close(part, whole[0, :, start // 256 : start // 256 + 48], atol=1e-4, rtol=1e-4)
    assert len(starts) > 1


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    x = torch.from_numpy(chirp(20000, 0)).float()
    segments = Segments([[x], [x.flip(0)]], [1.0, 2.0], recipe.RECIPE, 12288)
    a, b, c = (segments.batch(3, step, 4)[1] for step in (7, 7, 8))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_the_noisy_share_of_segments_is_under_noise_of_the_ratio() -> None:
    x = torch.from_numpy(0.3 * np.sin(np.arange(20000) / 7)).float()
    plain, noisy, some = (
        Segments([[x]], [1.0], recipe.RECIPE, 12288, (0.0, 0.0), share, (10.0, 10.0)) for share in (0.0, 1.0, 0.5)
    )
    (_, clean), (context, under) = plain.batch(0, 0, 1), noisy.batch(0, 0, 1)
    assert 10 * torch.log10(clean.square().mean() / (under - clean).square().mean()) == pytest.approx(10.0, abs=0.2)
    half = recipe.RECIPE.n_fft // 2
    assert torch.equal(context[:, half : half + 12288], under)  # what the mel hears is what is to be said
    power = torch.cat([some.batch(0, step, 4)[1] for step in range(8)]).square().mean(1)
    assert 8 <= int((power > 0.0468).sum()) <= 24


def test_the_stft_loss_is_zero_for_equals_and_knows_level_and_silence() -> None:
    loss, x = MultiResolutionSTFTLoss(), torch.from_numpy(chirp(8000, 0)).float()[None]
    assert all(term == 0 for term in loss(x, x))
    convergence, distance = loss(0.5 * x, x)
    assert convergence == pytest.approx(0.5, abs=1e-3)
    assert distance == pytest.approx(np.log(2), abs=0.05)
    silence = torch.zeros_like(x, requires_grad=True)
    sum(loss(silence, x)).backward()  # type: ignore[union-attr]
    assert silence.grad is not None
    assert silence.grad.isfinite().all()


def test_a_resumed_run_goes_on_as_if_never_stopped(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the discriminator from the second step, so that its state must be kept too."""
    monkeypatch.setitem(recipe.GENERATORS, "melgan", TINY)
    common = ["--kind", "melgan", "--source", f"{recordings}=1", "--batch", "1", "--log-every", "1"]
    common += ["--discriminator-from", "1", "--evaluate-every", "100"]

    def run(folder: str, steps: int, total: int) -> dict[str, torch.Tensor]:
        monkeypatch.setattr(recipe.Run, "learning_rate", lambda self: 1e-3 * (self.step + 1) / total)
        assert recipe.main([*common, "--out", str(tmp_path / folder), "--steps", str(steps)]) == 0
        return torch.load(tmp_path / folder / "checkpoint.pt", weights_only=True)["generator"]

    straight = run("a", 3, 3)
    run("b", 2, 3)
    resumed = run("b", 3, 3)
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)
    rows = [json.loads(line) for line in (tmp_path / "b" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert "critic" in rows[1]

    bundle = tmp_path / "out.safetensors"
    assert recipe.main([*common, "--out", str(tmp_path / "b"), "--export-only", "--export", str(bundle)]) == 0
    vocoder = load_vocoder(bundle)
    log_mel = torch.randn(1, 80, 10)
    generator = recipe.build("melgan")
    generator.load_state_dict(resumed)
    with torch.no_grad():
        torch.testing.assert_close(vocoder.synthesize(log_mel, torch.tensor([10])), generator(log_mel)[:, 0])
    with pytest.raises(BundleError, match="expected kind 'parallel_wavegan', found 'melgan'"):
        recipe.main([*common[2:], "--kind", "parallel_wavegan", "--out", str(tmp_path / "b")])


def test_parallel_wavegan_starts_from_a_melgans_waveform(recordings: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    melgan = make_vocoder("melgan", recipe.RECIPE, recipe.GENERATORS["melgan"], torch.zeros(80), torch.ones(80))
    save_vocoder(tmp_path / "m.safetensors", melgan)
    common = ["--kind", "parallel_wavegan_on_melgan", "--source", str(recordings), "--batch", "1"]
    with pytest.raises(OptionError, match="--conditioning goes with"):
        recipe.main([*common, "--out", str(tmp_path / "run")])
    common += ["--conditioning", str(tmp_path / "m.safetensors"), "--evaluate-every", "100", "--steps", "2"]
    assert recipe.main([*common, "--out", str(tmp_path / "run"), "--export", str(tmp_path / "p.safetensors")]) == 0
    trained: Any = load_vocoder(tmp_path / "p.safetensors")
    log_mel, frames, noise = torch.randn(1, 80, 9), torch.tensor([9]), torch.randn(1, 1, 9 * 256)
    features = trained.generator.upsample_net(log_mel)
    waveform = torch.tanh(features[:, 0] / 5)
    torch.testing.assert_close(waveform, melgan.synthesize(log_mel, frames))
    assert trained.needs_noise
    assert trained.synthesize(log_mel, frames, noise).std() > 0


def test_unusable_recordings_are_refused(recordings: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="found nothing at"):
        find_recordings(tmp_path / "none")
    with pytest.raises(AudioError, match="expected 8000 Hz, found 16000 Hz"):
        read_all(find_recordings(recordings), 8000)
    with pytest.raises(AudioError, match="at least 13312 samples"):
        Segments([[torch.zeros(10000)]], [1.0], recipe.RECIPE, 12288)
