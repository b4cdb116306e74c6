"""The recipes on LibriSpeech: a step or two of each, on real recordings where there are some, with tiny modules."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import RECIPE, speechlike, tiny_recognizer
from librispeech_folder import REAL, TEXTS, make_librispeech, needs_real

import armory_mdnf
from armory_mdnf import cli
from armory_mdnf.asr.checkpoints import load_recognizer, save_recognizer
from armory_mdnf.audio import noise, ragged
from armory_mdnf.data.librispeech import VARIABLE
from armory_mdnf.data.selection import any_split, read_samples
from armory_mdnf.defenses import MDNF
from armory_mdnf.errors import BundleError, OptionError
from armory_mdnf.training.augmentation import under_white_noise
from armory_mdnf.training.curve import ATTACKED_AT_ONCE, choose
from armory_mdnf.training.options import Parser
from armory_mdnf.training.parallel import Workers
from armory_mdnf.training.recipe import Recipe, build_sources
from armory_mdnf.training.recognizer import train, watched
from armory_mdnf.training.resynthesis import SHARD_HOURS, Resynthesis, draw
from armory_mdnf.training.sources import LibriSpeech, OnDisk, Shards
from armory_mdnf.vocoders import Vocoder
from armory_mdnf.vocoders.storage import save_vocoder

pytestmark = pytest.mark.filterwarnings("ignore:.*positions are other than in the whole split")
# The recordings with transcripts are of test-other; under these names they may be trained on, and chosen on.
SPLIT, DEV = "train-clean-360", "dev-other"
RECIPES = Path(armory_mdnf.__file__).parent / "training" / "recipes"


@pytest.fixture
def data_dir(tmp_path: Path, melgan: Vocoder, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny recogniser and a tiny vocoder, and LibriSpeech through the environment."""
    save_recognizer(tmp_path / "tiny.safetensors", tiny_recognizer(), {})
    save_vocoder(tmp_path / "vocoder.safetensors", melgan)
    links = tmp_path / "links"
    links.mkdir()
    for name, target in ((SPLIT, "test-other"), (DEV, "test-other"), ("train-clean-100", "train-clean-100")):
        (links / name).symlink_to(REAL / target)
    monkeypatch.setenv(VARIABLE, str(links))
    return tmp_path


def test_the_folder_in_the_data_directory_comes_first(tmp_path: Path) -> None:
    make_librispeech(tmp_path / "LibriSpeech", "train-clean-100")
    source = build_sources(["train-clean-100"], tmp_path)["train-clean-100"]
    assert len(source) == 5
    audio, text = source.sample(np.random.default_rng(0))
    assert text in TEXTS.values()
    assert 19_200 <= len(audio) <= 19_600
    with pytest.raises(BundleError, match="no utterance of at most 1 s"):
        build_sources(["train-clean-100"], tmp_path, max_duration_s=1.0)


def test_an_utterance_on_disk_is_its_samples(tmp_path: Path) -> None:
    utterance = LibriSpeech("test-clean", make_librispeech(tmp_path)).utterances[0]
    np.testing.assert_array_equal(np.asarray(OnDisk(utterance)), read_samples(utterance))
    assert len(OnDisk(utterance)) == len(read_samples(utterance))


def test_hours_of_librispeech_are_taken_without_repetition(tmp_path: Path) -> None:
    source = LibriSpeech("test-clean", make_librispeech(tmp_path))
    rng = np.random.default_rng(0)
    assert len(draw(source, 2.5 / 3600, rng)) == 3
    assert [text for _, text in draw(source, np.inf, rng)] == [u.transcript for u in source.utterances]


def test_resynthesis_is_that_of_the_vocoder_at_any_rate(melgan: Vocoder) -> None:
    x = speechlike(64 * 100 - 1)
    padded, lengths = ragged.pad([torch.from_numpy(x)])
    alone = melgan.synthesize(*melgan.mel(padded, lengths), None)[0, : len(x)]
    np.testing.assert_allclose(Resynthesis(melgan)(x, 0, 0), alone.numpy(), atol=1e-6)
    other = dataclasses.replace(RECIPE, sample_rate_hz=22050)
    melgan.recipe = melgan.front_end.recipe = other
    assert Resynthesis(melgan)(x, 0, 0).shape == x.shape


def test_noise_before_the_vocoder_is_that_of_the_key(melgan: Vocoder) -> None:
    x = speechlike(64 * 100)
    noisy = Resynthesis(melgan, noise_snr_db=(20.0, 20.0))
    y = under_white_noise(x, (20.0, 20.0), np.random.default_rng([1, 2]))
    assert 10 * np.log10(np.mean(x**2) / np.mean((y - x) ** 2)) == pytest.approx(20.0, abs=0.2)
    expected = Resynthesis(melgan)(y, 1, 2)
    np.testing.assert_array_equal(noisy(x, 1, 2), expected)
    np.testing.assert_array_equal(noisy(x, 1, 2), noisy(x, 1, 2))
    assert not np.array_equal(noisy(x, 1, 2), noisy(x, 1, 3))


def test_flooded_resynthesis_is_mdnf_at_a_level_of_the_range(melgan: Vocoder) -> None:
    x = speechlike(64 * 100)
    flooded = Resynthesis(melgan, mel_noise_level=(5.0, 10.0), curve=None)
    y = flooded(x, 1, 2)
    level = flooded.defense.noise_level
    assert 5 <= level <= 10
    defense = MDNF(melgan, noise_level=level, curve=None, device_type="cpu")
    alone = defense.defend(*ragged.pad([torch.from_numpy(x)]), [noise.stream(1, 2)])
    np.testing.assert_allclose(y, alone[0].detach().numpy(), atol=1e-6)
    flooded(x, 1, 3)
    assert flooded.defense.noise_level != level


@pytest.mark.parametrize("name", ["librispeech_mg", "librispeech_wg"])
def test_the_shipped_recipes_are_read(name: str) -> None:
    recipe = Recipe.read(Path(armory_mdnf.__file__).parent / "training" / "recipes" / f"{name}.json")
    shares = {source: share for source, (share, _) in recipe.sources.items()}
    vocoder = {"mg": "melgan", "wg": "pwg"}[name.removeprefix("librispeech_")]
    assert shares == {f"{vocoder}_train-clean-100": 0.7, "train-clean-100": 0.3}


README = Path(__file__).parents[1] / "scenario_configs" / "librispeech" / "README.md"


def test_the_commands_of_the_readme_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """They parse, and the recipe of the second names the weights and the shards of the others."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    text = README.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.split() for line in text.splitlines() if line.startswith("armory-mdnf train ")]
    assert [line[2] for line in lines] == ["resynthesis", "recognizer", "curve", "level"]
    parsed = {line[2]: parse(monkeypatch, line[2], line[3:]) for line in lines}
    recipe = Recipe.read(RECIPES / parsed["recognizer"].recipe.name)
    made, _, hours = parsed["resynthesis"].sources[0].partition("=")
    assert hours == "inf"
    assert f"{Path(parsed['resynthesis'].vocoder).stem}_{made}" in recipe.sources
    assert recipe.init == parsed["curve"].recognizer
    assert parsed["level"].recognizer == str(parsed["recognizer"].out)
    assert parsed["level"].vocoder == parsed["curve"].vocoder == parsed["resynthesis"].vocoder


def parse(monkeypatch: pytest.MonkeyPatch, command: str, options: list[str]) -> argparse.Namespace:
    """The options as the command reads them, without running it."""
    read: list[argparse.Namespace] = []

    def stop(parser: Parser, argv: list[str]) -> None:
        read.append(argparse.ArgumentParser.parse_args(parser, argv))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Parser, "parse_args", stop)
        with pytest.raises(KeyboardInterrupt):
            importlib.import_module(f"armory_mdnf.training.{command}").main(options)
    return read[0]


def test_what_the_readme_says_of_stopping_and_of_the_recipes() -> None:
    text = " ".join(README.read_text(encoding="utf-8").split())
    assert f"the last whole shard of {SHARD_HOURS * 60:g} minutes" in text
    assert f"the last checkpoint (every {inspect.signature(train).parameters['every'].default} steps)" in text
    assert f"the last {ATTACKED_AT_ONCE} pairs" in text
    assert "70 % resynthesised and 30 % clean speech, all with white noise" in text
    for name in ("librispeech_mg", "librispeech_wg"):
        recipe = Recipe.read(RECIPES / f"{name}.json")
        assert sorted(share for share, _ in recipe.sources.values()) == [0.3, 0.7]
        assert (recipe.augmentation["noise_probability"], recipe.augmentation["pink_share"]) == (1.0, 0.0)


@needs_real
def test_resynthesis_then_fine_tuning(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--vocoder", str(data_dir / "vocoder.safetensors"), "--data-dir", str(data_dir), "--threads", "1"]
    assert cli.main(["train", "resynthesis", *options, "--sources", f"{SPLIT}=0.005"]) == 0
    shards = Shards(data_dir / f"vocoder_{SPLIT}", max_duration_s=17.0)
    real = {u.transcript: u for u in any_split(SPLIT)}
    assert len(shards.lines) >= 1
    for line in shards.lines:
        assert line["length"] == round(16000 * real[line["transcript"]].duration_s)
    recipe = {
        "name": "t",
        "init": "tiny.safetensors",
        "sources": {f"vocoder_{SPLIT}": [0.7, 0.7], SPLIT: [0.3, 0.3]},
        "max_duration_s": 17.0,
        "dev": [DEV],
        "dev_utterances": 2,
        "steps": 2,
        "seed": 1,
        "batch_seconds": 8.0,
        "augmentation": {"noise_probability": 1.0},
    }
    (data_dir / "t.json").write_text(json.dumps(recipe))
    out = data_dir / "tuned.safetensors"
    command = ["train", "recognizer", str(data_dir / "t.json"), "--data-dir", str(data_dir), "--out", str(out)]
    assert cli.main([*command, "--threads", "1"]) == 0
    log = [json.loads(line) for line in (data_dir / "runs" / "t" / "log.jsonl").read_text().splitlines()]
    assert log[0]["utterances"][SPLIT] > 40
    assert log[1]["step"] == 2
    assert log[1][DEV] > 0
    before, after = (load_recognizer(data_dir / n).network.state_dict() for n in ("tiny.safetensors", out.name))
    assert any(not torch.allclose(before[key].float(), after[key].float(), atol=1e-3) for key in before)


@needs_real
def test_the_curve_of_recordings_without_transcripts(data_dir: Path) -> None:
    out = data_dir / "curve.json"
    models = ["--recognizer", str(data_dir / "tiny.safetensors"), "--vocoder", str(data_dir / "vocoder.safetensors")]
    size = ["--pairs", "2", "--iterations", "2", "--max-duration-s", "6", "--threads", "1"]
    assert cli.main(["train", "curve", *models, "--corpus", "train-clean-100", *size, "--out", str(out)]) == 0
    content = json.loads(out.read_text())
    assert max(content["curve"]) == 1
    assert content["recipe"]["data"] == "LibriSpeech train-clean-100, 1.5 to 6 s"
    assert content["recipe"]["pairs"] == 2


@needs_real
def test_the_level_on_a_split_of_librispeech(data_dir: Path) -> None:
    out = data_dir / "level.json"
    models = ["--recognizer", str(data_dir / "tiny.safetensors"), "--vocoder", str(data_dir / "vocoder.safetensors")]
    size = ["--curve", "flat", "--levels", "0", "1", "--utterances", "1", "--iterations", "1", "--threads", "1"]
    assert cli.main(["train", "level", *models, "--corpus", "dev_other", *size, "--out", str(out)]) == 0
    assert [row["noise_level"] for row in json.loads(out.read_text())["grid"]] == [0.0, 1.0]


def test_an_unknown_corpus_is_refused(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--recognizer", "x", "--vocoder", "x", "--levels", "1", "--out", str(data_dir / "o.json")]
    assert cli.main(["train", "level", *options, "--corpus", "dev-clear"]) == 2
    assert "unknown split 'dev-clear_dev'" in capsys.readouterr().err


@pytest.mark.parametrize("split", ["test-clean", "test_other", "dev-clean"])
def test_nothing_is_learned_from_what_is_evaluated(split: str, tmp_path: Path) -> None:
    make_librispeech(tmp_path / "LibriSpeech", split)
    with pytest.raises(OptionError, match=f"{split}: expected a training split"):
        build_sources([split], tmp_path)
    with pytest.raises(OptionError, match=f"{split}: expected a training split"):
        choose(split, tmp_path, 1, None, 0)


def test_a_held_out_speaker_whom_no_split_has_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistyped one would be learned from."""
    root = make_librispeech(tmp_path / "LibriSpeech", "train-clean-100")
    (root / "dev-clean" / "1272").mkdir(parents=True)
    monkeypatch.setenv(VARIABLE, str(root))
    split = "train-clean-100"
    assert len(build_sources([split], tmp_path, None, ["84", "1272"])[split]) == 2
    message = "held_out_speakers: no split in .*LibriSpeech has a speaker '084'"
    with pytest.raises(OptionError, match=message):
        build_sources([split], tmp_path, None, ["84", "084"])
    with pytest.raises(OptionError, match=message):
        watched([split], None, ["84", "084"], root)
    command = ["train", "resynthesis", "--vocoder", "melgan", "--sources", f"{split}=1", "--data-dir", str(tmp_path)]
    assert cli.main([*command, "--held-out-speakers", "084"]) == 2
    assert "has a speaker '084'" in capsys.readouterr().err


def test_shards_say_which_speakers_they_left_out(tmp_path: Path, melgan: Vocoder) -> None:
    make_librispeech(tmp_path / "LibriSpeech", "train-clean-100")
    save_vocoder(tmp_path / "vocoder.safetensors", melgan)
    command = ["train", "resynthesis", "--vocoder", str(tmp_path / "vocoder.safetensors"), "--data-dir", str(tmp_path)]
    command += ["--threads", "1", "--sources", "train-clean-100=inf"]
    shards = "vocoder_train-clean-100"
    assert cli.main([*command, "--held-out-speakers", "84"]) == 0
    assert len(build_sources([shards], tmp_path, None, ["84"])[shards]) == 2
    assert len(build_sources([shards], tmp_path)[shards]) == 2
    with pytest.raises(
        BundleError, match=r"made_of\.json: expected shards without the held-out speakers 7, found 84 left out"
    ):
        build_sources([shards], tmp_path, None, ["84", "7"])
    shutil.rmtree(tmp_path / shards)
    assert cli.main(command) == 0
    with pytest.raises(BundleError, match="without the held-out speakers 84, found none left out"):
        build_sources([shards], tmp_path, None, ["84"])


def test_no_level_is_chosen_on_a_test_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--recognizer", "ds2_base", "--levels", "1", "--out", str(tmp_path / "o.json")]
    assert cli.main(["train", "level", *options, "--corpus", "test-clean"]) == 2
    assert "expected a dev split" in capsys.readouterr().err


# Several processes.


def test_one_process_draws_as_it_always_did() -> None:
    assert Workers().key(3, 5) == [3, 5]
    drawn = {tuple(np.random.default_rng(Workers(rank, 4).key(3, 5)).integers(1 << 30, size=2)) for rank in range(4)}
    assert len(drawn) == 4
    assert Workers.join("cpu") == (Workers(), "cpu")


def torchrun(*command: str, **environment: str) -> str:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *command]
    env = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    run = subprocess.run(launch, env=env, check=False, timeout=500, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.slow
def test_gradients_are_averaged_over_the_processes(tmp_path: Path) -> None:
    (tmp_path / "average.py").write_text(
        "import torch\n"
        "from armory_mdnf.training.parallel import Workers\n"
        "workers, device = Workers.join('cpu')\n"
        "layer = torch.nn.Linear(1, 1, bias=False)\n"
        "layer.weight.grad = torch.full((1, 1), 1.0 + workers.rank)\n"
        "workers.average_gradients(layer)\n"
        "print(f'{workers.size} {device} {float(layer.weight.grad)}\\n', end='', flush=True)\n"
        "workers.leave()\n"
    )
    assert torchrun(str(tmp_path / "average.py")).splitlines() == ["2 cpu 1.5"] * 2


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path: Path) -> None:
    root = make_librispeech(tmp_path / "LibriSpeech", "train-clean-100")
    recipe = {
        "name": "two",
        "sources": {"train-clean-100": [1, 1]},
        "dev": ["train-clean-100"],
        "model": {"hidden_size": 16, "hidden_layers": 1, "conv_channels": 2},
        "steps": 3,
        "seed": 3,
        "batch_seconds": 3.0,
        "warmup_steps": 1,
    }
    (tmp_path / "two.json").write_text(json.dumps(recipe))
    options = ["--data-dir", str(tmp_path), "--out", str(tmp_path / "two.safetensors"), "--threads", "1"]
    torchrun("-m", "armory_mdnf.training.recognizer", str(tmp_path / "two.json"), *options, **{VARIABLE: str(root)})
    lines = (tmp_path / "runs" / "two" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 3]  # the first process alone writes
    load_recognizer(tmp_path / "two.safetensors")


def test_endless_sources_need_hours(tmp_path: Path) -> None:
    class Endless:
        def __len__(self) -> int:
            return 1

        def sample(self, rng: np.random.Generator) -> tuple[np.ndarray, str]:
            return np.zeros(16000, np.float32), "A"

    with pytest.raises(OptionError, match="expected a number of hours"):
        draw(Endless(), np.inf, np.random.default_rng(0))
