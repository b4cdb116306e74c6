"""The vocoders' training recipe: segments, losses, resuming, export."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from armory_mdnf.audio.files import write_flac
from armory_mdnf.audio.mel import LogMel
from armory_mdnf.errors import AudioError, BundleError, OptionError
from armory_mdnf.files.locks import alone_in
from armory_mdnf.training import vocoder as recipe
from armory_mdnf.training.vocoder_data import Segments, find_recordings, read_all
from armory_mdnf.training.vocoder_losses import MultiResolutionSTFTLoss
from armory_mdnf.vocoders import load_vocoder, make_vocoder, save_vocoder

pytestmark = pytest.mark.usefixtures("closes_files")

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
    looks = itertools.count()  # at the clock: a second from each to the next
    monkeypatch.setattr(recipe.time, "monotonic", lambda: next(looks))
    common = ["--kind", "melgan", "--source", f"{recordings}=1", "--batch", "1", "--log-every", "1"]
    common += ["--discriminator-from", "1", "--evaluate-every", "100"]

    common += ["--steps", "3"]

    def run(folder: str) -> dict[str, torch.Tensor]:
        assert recipe.main([*common, "--out", str(tmp_path / folder)]) == 0
        return torch.load(tmp_path / folder / "checkpoint.pt", weights_only=True)["generator"]

    straight = run("a")
    with monkeypatch.context() as patch:
        patch.setattr(recipe, "save_state", stopping_at(2, recipe.save_state))
        with pytest.raises(KeyboardInterrupt):
            run("b")
    with (tmp_path / "b" / "log.jsonl").open("a") as log:
        log.write('{"step": 3}\n')  # said before the kill, and not kept
    resumed = run("b")
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)
    rows = [json.loads(line) for line in (tmp_path / "b" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [row["seconds"] for row in rows] == [1, 2, 3]
    assert "critic" in rows[1]

    bundle = tmp_path / "out.safetensors"
    assert recipe.main([*common, "--out", str(tmp_path / "b"), "--export-only", "--export", str(bundle)]) == 0
    vocoder = load_vocoder(bundle)
    log_mel = torch.randn(1, 80, 10)
    generator = recipe.build("melgan")
    generator.load_state_dict(resumed)
    with torch.no_grad():
        torch.testing.assert_close(vocoder.synthesize(log_mel, torch.tensor([10])), generator(log_mel)[:, 0])
    out = ["--out", str(tmp_path / "b"), "--export", str(tmp_path / "x.safetensors")]
    for options, message in OTHERS.items():
        for also in ([], ["--export-only"]):
            with pytest.raises(BundleError, match=rf"checkpoint\.pt was made of something else: {message}"):
                recipe.main([*common, *options.split(), *out, *also])
    write_flac(recordings / "0.flac", chirp(16000, 9), 16000)
    with pytest.raises(BundleError, match=r"made of something else: sources\.0\.recordings was '"):
        run("b")
    assert not (tmp_path / "x.safetensors").exists()
    recipe.main(["--out", str(tmp_path / "b"), "--export-only", "--export", str(tmp_path / "x.safetensors")])


OTHERS = {
    "--seed 2": "recipe.seed was 1 there, is 2 now",
    "--lr 0.1": "recipe.lr was 0.0015 there, is 0.1 now",
    "--steps 4": "recipe.steps was 3 there, is 4 now",
    "--kind parallel_wavegan": "recipe.kind was 'melgan' there, is 'parallel_wavegan' now",
    "--discriminator-from 2": "recipe.discriminator_from was 1 there, is 2 now",
    "--adversarial-weight 0.1": "recipe.adversarial_weight was 0.5 there, is 0.1 now",
}


def stopping_at(step: int, save: Callable[..., None]) -> Callable[..., None]:
    def stop(path: Path, state: dict[str, Any]) -> None:
        save(path, state)
        if state["step"] == step:
            raise KeyboardInterrupt

    return stop


def test_a_discriminator_joins_a_run_of_another_folder(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(recipe.GENERATORS, "melgan", TINY)
    common = ["--kind", "melgan", "--source", str(recordings), "--batch", "1", "--log-every", "1"]
    first, second = (str(tmp_path / name) for name in ("first", "second"))
    assert recipe.main([*common, "--steps", "1", "--out", first]) == 0
    joined = [*common, "--steps", "2", "--discriminator-from", "1", "--continue-from", f"{first}/checkpoint.pt"]
    assert recipe.main([*joined, "--out", second]) == 0
    rows = [json.loads(line) for line in (tmp_path / "second" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2]
    assert "critic" in rows[0]
    assert recipe.main([*joined, "--out", second]) == 0  # at its end
    (tmp_path / "first" / "checkpoint.pt").write_bytes((tmp_path / "second" / "checkpoint.pt").read_bytes())
    with pytest.raises(BundleError, match="made of something else: continue_from was '"):
        recipe.main([*joined, "--out", second])
    with pytest.raises(BundleError, match="expected kind 'parallel_wavegan', found 'melgan'"):
        recipe.main([*joined, "--out", str(tmp_path / "third"), "--kind", "parallel_wavegan"])
    with pytest.raises(OptionError, match=r"first/checkpoint\.pt is at step 2 and steps count on .*, found 2"):
        recipe.main([*joined, "--out", str(tmp_path / "third"), "--export", str(tmp_path / "x.safetensors")])
    with pytest.raises(BundleError, match="no checkpoint at nowhere"):
        recipe.main([*joined, "--out", str(tmp_path / "third"), "--continue-from", "nowhere"])


def test_a_vocoders_checkpoint_of_unknown_origin_is_refused(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(recipe.GENERATORS, "melgan", TINY)
    command = ["--kind", "melgan", "--source", str(recordings), "--batch", "1", "--steps", "1", "--out", str(tmp_path)]
    assert recipe.main(command) == 0
    path = tmp_path / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    changes: dict[str, dict[str, Any]] = {
        "does not say what it was made of": {"made_of": None},
        "expected 'step' of type int, found '1'": {"step": "1"},
        r"expected weight '.*' of shape .*, found none": {"generator": {}},
        "optimizer's state does not fit": {"optimizer": {"state": {}, "param_groups": []}},
    }
    for message, change in changes.items():
        torch.save(state | change, path)
        with pytest.raises(BundleError, match=message):
            recipe.main(command)
    path.write_bytes(path.read_bytes()[:-50])
    for options in ([], ["--export-only", "--export", str(tmp_path / "x.safetensors")]):
        with pytest.raises(BundleError, match="not a readable checkpoint"):
            recipe.main([*command, *options])


def test_a_folder_that_another_training_writes_is_refused(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(recipe.GENERATORS, "melgan", TINY)
    folder = tmp_path / "out"
    folder.mkdir()
    command = ["--kind", "melgan", "--source", str(recordings), "--batch", "1", "--steps", "1", "--out", str(folder)]
    with alone_in(folder, BundleError):
        with pytest.raises(BundleError, match=f"{folder} is being written by another command"):
            recipe.main(command)
        assert not list(folder.iterdir())
    assert recipe.main(command) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "0"], "steps: expected a whole number from 1"),
        (["--batch", "0"], "batch: expected a whole number from 1"),
        (["--lr", "nan"], "lr: expected a finite number above 0.*, found nan"),
        (["--lr", "-1"], "lr: expected a finite number above 0"),
        (["--noisy", "1.5"], "noisy: expected a number from 0 to 1, found 1.5"),
        (["--noise-snr-db", "40", "0"], "noise_snr_db: expected two finite numbers, the lower one first"),
        (["--seed", "-1"], "seed: expected a whole number from 0"),
        (["--source", "speech=many"], "--source: expected FOLDER_OR_MANIFEST=WEIGHT, got 'speech=many'"),
        (["--source", "speech=0"], "sources: expected folders or manifests of recordings, each with a weight above 0"),
        (["--source", "a=1", "--source", "a=2"], "'a' is there twice"),
        (["--export-only"], "--export-only needs --export"),
        (["--export", "."], "cannot write .: it is a folder"),
    ],
)
def test_options_of_a_vocoder_are_checked_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=message):
        recipe.main(["--kind", "melgan", "--source", "nowhere", "--out", "run", *options])
    with pytest.raises(OptionError, match="expected --kind"):
        recipe.main(["--source", "nowhere", "--out", "run"])
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="cannot write to the folder file"):
        recipe.main(["--kind", "melgan", "--source", "nowhere", "--out", "file"])


def test_a_manifest_that_is_none_is_refused(tmp_path: Path) -> None:
    for content, message in (("{", "line 1 is not JSON"), ('{"path": "a"}', "line 1: file: expected a text")):
        (tmp_path / "train.jsonl").write_text(content)
        with pytest.raises(BundleError, match=message):
            find_recordings(tmp_path / "train.jsonl")


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
