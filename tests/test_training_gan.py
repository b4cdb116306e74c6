"""Vocoders trained against a discriminator from trained weights on, their noise sensitivity, batches computed ahead."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import speechlike, tiny_recognizer

from armory_mdnf.audio.files import write_flac
from armory_mdnf.data.bundled import corpora_folder
from armory_mdnf.errors import BundleError, OptionError
from armory_mdnf.training import sensitivity
from armory_mdnf.training import vocoder as recipe
from armory_mdnf.training.loading import ahead
from armory_mdnf.training.sensitivity import noise_sensitivity
from armory_mdnf.training.vocoder_data import find_recordings, packed, training_recordings, unpacked
from armory_mdnf.training.vocoder_recipe import VocoderRecipe
from armory_mdnf.training.vocoder_watching import Watching
from armory_mdnf.vocoders import Vocoder, load_vocoder, make_vocoder, save_vocoder

TINY = {"in_channels": 80, "channels": 256, "upsample_scales": [8, 8, 2, 2], "stacks": 1}
RECIPES = Path(recipe.__file__).parent / "recipes"
X = speechlike(6400)


def trained(path: Path, seed: int = 4) -> Path:
    torch.manual_seed(seed)
    statistics = torch.full((80,), -2.0), torch.full((80,), 0.5)
    save_vocoder(path, make_vocoder("melgan", recipe.RECIPE, TINY, *statistics))
    return path


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    for speaker in ("19", "26"):
        write_flac(tmp_path / "speech" / speaker / "1" / f"{speaker}-1-0000.flac", speechlike(16000), 16000)
    return tmp_path / "speech"


def arguments(recordings: Path, out: Path, *more: str) -> list[str]:
    common = ["--kind", "melgan", "--source", str(recordings), "--batch", "1", "--log-every", "1", "--out", str(out)]
    return [*common, "--evaluate-every", "1", *more]


def test_a_vocoder_begins_with_the_weights_and_statistics_of_a_trained_one(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(recipe.GENERATORS, "melgan", TINY)
    init = trained(tmp_path / "init.safetensors")
    out = tmp_path / "out.safetensors"
    args = arguments(recordings, tmp_path / "run", "--init", str(init), "--steps", "1", "--lr", "1e-12")
    args += ["--discriminator-from", "0", "--spectral-final", "0", "--spectral-fade-steps", "1"]
    assert recipe.main([*args, "--export", str(out)]) == 0
    before, after = load_vocoder(init), load_vocoder(out)
    assert after.front_end.mean is not None
    assert torch.equal(after.front_end.mean, before.front_end.mean)
    weights = before.generator.state_dict()
    for name, value in after.generator.state_dict().items():
        torch.testing.assert_close(value, weights[name], rtol=1e-5, atol=1e-6)
    trained(init, seed=5)  # its checksum counts
    with pytest.raises(BundleError, match="init"):
        recipe.main(args)


def test_a_trained_vocoder_of_other_sizes_is_refused(recordings: Path, tmp_path: Path) -> None:
    init = trained(tmp_path / "init.safetensors")
    with pytest.raises(BundleError, match="expected the melgan that is trained here, found melgan"):
        recipe.main(arguments(recordings, tmp_path / "run", "--init", str(init), "--steps", "1"))


def test_the_spectral_losses_fade_after_the_discriminator_joined() -> None:
    fading = VocoderRecipe(
        "melgan", {"a": 1.0}, discriminator_from=10, spectral_final=0.2, spectral_fade_steps=4, steps=20
    )
    weights = [fading.spectral_weight(step) for step in (0, 9, 10, 11, 13, 19)]
    assert weights == pytest.approx([1, 1, 0.8, 0.6, 0.2, 0.2])
    with pytest.raises(OptionError, match="expected discriminator_from"):
        VocoderRecipe("melgan", {"a": 1.0}, spectral_final=0.2)
    with pytest.raises(OptionError, match="--init goes neither"):
        VocoderRecipe("melgan", {"a": 1.0}, init="melgan", continue_from="x")


@pytest.mark.parametrize("name", ["melgan_gan", "pwg_gan"])
def test_the_committed_recipes_are_whole(name: str) -> None:
    values = VocoderRecipe.read(RECIPES / "vocoders" / f"{name}.json")
    made = VocoderRecipe(**values, sources={"a": 1.0})
    assert made.spectral_final <= made.spectral_weight(made.steps - 1) < 1


def test_a_recipe_file_says_what_is_wrong_in_it(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    with pytest.raises(BundleError, match="no recipe at"):
        VocoderRecipe.read(path)
    for text, message in (("[]", "expected an object"), ('{"stepz": 1}', "stepz"), ('{"steps": 0}', "steps")):
        path.write_text(text)
        with pytest.raises(OptionError, match=f"{path.name}.*{message}"):
            VocoderRecipe.read(path)


def test_held_out_speakers_are_not_among_the_recordings(recordings: Path) -> None:
    assert [p.stem for p in find_recordings(recordings, ["26"])] == ["19-1-0000"]
    with pytest.raises(BundleError, match="no recordings"):
        find_recordings(recordings, ["19", "26"])


def test_a_held_out_speaker_is_found_above_the_source_in_a_manifest_and_behind_a_link(
    recordings: Path, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match=r"no recordings in .*, of other speakers than those held out"):
        find_recordings(recordings / "26", ["26"])
    manifest = recordings / "train.jsonl"
    manifest.write_text("".join(json.dumps({"file": f"{s}/1/{s}-1-0000.flac"}) + "\n" for s in ("19", "26")))
    assert [p.stem for p in find_recordings(manifest, ["26"])] == ["19-1-0000"]
    (tmp_path / "link").symlink_to(recordings / "26")
    with pytest.raises(BundleError, match="no recordings in"):
        find_recordings(tmp_path / "link", ["26"])


def test_a_held_out_speaker_whom_no_source_has_is_refused(recordings: Path) -> None:
    sources = [str(recordings), str(recordings / "19")]
    assert [len(paths) for paths in training_recordings(sources, ["26"])] == [1, 1]
    with pytest.raises(OptionError, match="held_out_speakers: no source has a speaker '026'"):
        training_recordings(sources, ["26", "026"])


def test_no_vocoder_learns_from_what_is_evaluated(recordings: Path, tmp_path: Path) -> None:
    home = tmp_path / "LibriSpeech"
    for split in ("train-clean-100", "test-clean", "dev-clean"):
        shutil.copytree(recordings, home / split)
    link = tmp_path / "link"
    link.symlink_to(home / "test-clean" / "19")
    assert len(training_recordings([str(home / "train-clean-100")])[0]) == 2
    assert len(training_recordings([str(home / "dev-clean")], ["26"])[0]) == 1
    for source in (home, home / "test-clean", home / "test-clean" / "19", link):
        with pytest.raises(OptionError, match=f"{source}: test-clean: expected a training split"):
            training_recordings([str(source)], ["26"])
    with pytest.raises(OptionError, match=r"dev-clean: expected a training split, .*, unless held_out_speakers"):
        training_recordings([str(home / "dev-clean")])
    for corpus in ("human", "synthetic"):
        for part in ("eval", "dev", "eval/manifest.jsonl"):
            with pytest.raises(OptionError, match=f"{corpus}/{part[:4].strip('/')} is for evaluation"):
                training_recordings([str(corpora_folder() / corpus / part)])


def test_what_is_evaluated_keeps_apart_what_has_one_name(recordings: Path, tmp_path: Path) -> None:
    shutil.copytree(recordings / "26", tmp_path / "other" / "26")
    texts = [str(path) for path in (recordings / "26", tmp_path / "other" / "26", recordings / "19")]
    assert list(Watching(texts[:1]).read()) == ["26"]
    assert list(Watching(texts).read()) == ["speech/26", "other/26", "speech/19"]
    with pytest.raises(OptionError, match=r"--evaluate: '.*26/' is there twice"):
        Watching([*texts, texts[0] + "/"]).read()


@pytest.mark.parametrize("watched", [["--evaluate", "speech"], ["--sensitivity", "tiny.safetensors"]])
def test_an_evaluation_between_the_lines_of_the_log_is_refused(
    recordings: Path, tmp_path: Path, watched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recipe, "Run", lambda *args: pytest.fail("a run was begun"))
    common = ["--kind", "melgan", "--source", "speech", "--out", "run", "--evaluate-every", "20"]
    with pytest.raises(OptionError, match=r"--evaluate-every 20: expected a multiple of --log-every 50"):
        recipe.main([*common, *watched])
    assert not (tmp_path / "run").exists()
    assert Watching(evaluate_every=20) == Watching(evaluate_every=20, log_every=50)  # nothing is evaluated


@pytest.mark.parametrize("bits", [16, 24])
def test_packed_recordings_are_the_same_samples(bits: int) -> None:
    x = torch.from_numpy(speechlike(4000)).float()
    x[0], x[1] = -1.0, 1 - 2.0 ** (1 - bits)
    x = (x.double() * 2 ** (bits - 1)).round().div(2 ** (bits - 1)).float()
    assert packed(x).dtype == (torch.int16 if bits == 16 else torch.float32)
    assert torch.equal(unpacked(packed(x)), x)
    assert torch.equal(unpacked(packed(torch.ones(3))), torch.ones(3))


def test_the_noise_sensitivity_is_logged(recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(recipe.GENERATORS, "melgan", TINY)
    monkeypatch.setattr(recipe, "load_recognizer", lambda name: tiny_recognizer())
    monkeypatch.setattr(recipe, "watched_prompts", lambda: [(torch.from_numpy(X), "AB C")])
    assert recipe.main(arguments(recordings, tmp_path / "run", "--steps", "1", "--sensitivity", "tiny")) == 0
    row = json.loads((tmp_path / "run" / "log.jsonl").read_text())
    assert all(-1 <= row[f"cosine_{name}"] <= 1 for name in ("waveform", "gradient", "published"))


def test_without_noise_every_draw_is_the_same_and_noise_parts_them(melgan: Vocoder) -> None:
    prompts = [(torch.from_numpy(X), "AB C")]
    quiet = noise_sensitivity(melgan, tiny_recognizer(), prompts, pairs=1, noise_level=0.0, curve=None)
    assert quiet == pytest.approx({"waveform": 1.0, "gradient": 1.0, "published": 1.0}, abs=1e-3)
    loud = noise_sensitivity(melgan, tiny_recognizer(), prompts, pairs=2, noise_level=400.0, curve=None)
    assert loud["waveform"] < 0.99
    assert loud["gradient"] < 0.9


def test_finished_vocoders_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity, "load_recognizer", lambda name: tiny_recognizer())
    monkeypatch.setattr(sensitivity, "watched_prompts", lambda: [(torch.from_numpy(X), "AB C")])
    out = tmp_path / "cosines.json"
    words = ["--vocoder", "melgan", "melgan_gan", "--out", str(out)]
    assert sensitivity.main(words) == 0
    found = json.loads(out.read_text())["cosines"]
    assert list(found) == ["melgan", "melgan_gan"]
    assert found["melgan"] != found["melgan_gan"]
    assert all(-1 <= cosine <= 1 for cosines in found.values() for cosine in cosines.values())
    monkeypatch.setattr(sensitivity, "noise_sensitivity", None)
    assert sensitivity.main(words) == 0  # nothing is measured again
    with pytest.raises(BundleError, match="vocoders"):
        sensitivity.main(["--vocoder", "melgan", "--out", str(out)])


def _square(number: int) -> np.ndarray:
    if number == 5:
        raise OptionError("five is refused")
    return np.full(3, number * number)


def _process(number: int) -> int:
    return os.getpid()


@pytest.mark.parametrize("processes", [0, 2])
def test_what_is_computed_ahead_comes_in_order(processes: int) -> None:
    assert [int(a[0]) for a in ahead(_square, 1, 5, processes)] == [1, 4, 9, 16]
    assert list(ahead(_square, 3, 3, processes)) == []
    with pytest.raises(OptionError, match="five is refused"):
        list(ahead(_square, 4, 9, processes))


def test_what_is_computed_ahead_is_computed_elsewhere() -> None:
    assert os.getpid() not in set(ahead(_process, 0, 4, 2))
