"""The commands for one's own recordings: transcribe, defend, attack."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import speechlike
from hypothesis import given
from hypothesis import strategies as st

from armory_mdnf import cli, defenses
from armory_mdnf.asr.checkpoints import load_recognizer
from armory_mdnf.audio.recordings import read_recording
from armory_mdnf.commands import blocks, listener
from armory_mdnf.defenses.base import WaveformDefense
from armory_mdnf.errors import OptionError
from armory_mdnf.files.bundles import bundled_names
from armory_mdnf.vocoders import Vocoder

CONFIGS = Path(__file__).parents[1] / "scenario_configs"
Spoken = Callable[..., Any]


@pytest.fixture
def spoken(tmp_path: Path) -> Path:
    path = tmp_path / "in.wav"
    soundfile.write(path, speechlike(12000), 16000, subtype="PCM_16")
    return path


@pytest.fixture
def long_one(tmp_path: Path) -> Path:
    path = tmp_path / "long.flac"
    soundfile.write(path, np.stack([speechlike(8 * 22050), speechlike(8 * 22050, 1)], 1), 22050)
    return path


@pytest.fixture
def found(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a command with --json. Returns what it printed."""

    def run(*words: object, code: int = 0) -> Any:
        assert cli.main([*map(str, words), "--json"]) == code
        return json.loads(capsys.readouterr().out)

    return run


def refused(capsys: Any, *words: object) -> str:
    assert cli.main([str(word) for word in words]) == 2
    error: str = capsys.readouterr().err
    assert error.startswith("armory-mdnf: error: ")
    assert error.count("\n") == 1
    return error


# Defences and attacks by name.

DEFAULTS = {name: made[1] for name, made in blocks.DEFENSES.items() if made is not None}


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("none", "whisper_pgd_l2_ours"),
        ("rs", "whisper_rs_pgd_l2_ours"),
        ("mg", "whisper_mg_pgd_l2_ours"),
        ("mg_mdnf", "whisper_mg_mdnf_pgd_l2_ours"),
        ("wg", "librispeech/whisper_wg_pgd_l2_ours"),
        ("wg_mdnf", "librispeech/whisper_wg_mdnf_pgd_l2_ours"),
        ("hg", "librispeech/whisper_hg_pgd_l2_ours"),
        ("hg_mdnf", "librispeech/whisper_hg_mdnf_pgd_l2_ours"),
    ],
)
def test_named_defences_are_those_of_the_configurations(name: str, file: str) -> None:
    config = json.loads((CONFIGS / f"{file}.json").read_text())
    if file.startswith("librispeech/") and "curve" in config["defense"]["kwargs"]:
        config["defense"]["kwargs"]["curve"] = "bundled_l2"  # that of the bundled scale
    assert blocks.defense_block(name) == config["defense"]
    assert blocks.model_for(None, name) == config["model"]["model_kwargs"]["weights"]


def test_every_default_model_is_bundled() -> None:
    assert {blocks.DEFAULT_MODEL, blocks.HEARS_BEST, *blocks.FINE_TUNED.values()} <= set(bundled_names())
    assert blocks.model_for("hf:x/y", "mg") == "hf:x/y"
    assert blocks.model_for(None, "mg_mdnf,noise_level=3") == "whisper_ctc_mg"
    assert blocks.model_for(None, "mg", blocks.HEARS_BEST) == "whisper_ctc_mg"
    assert blocks.model_for(None, "rs", blocks.HEARS_BEST) == blocks.HEARS_BEST


@pytest.mark.parametrize("name", [name for name in blocks.DEFENSES if not name.startswith(("none", "hg"))])
def test_every_named_defence_can_be_made(name: str) -> None:
    block = blocks.defense_block(name)
    assert block is not None
    assert isinstance(getattr(defenses, block["name"])(**block["kwargs"]), WaveformDefense)


def test_options_of_a_defence() -> None:
    block = blocks.defense_block("mg_mdnf,noise_level=40,curve=null,normalize=none", seed=3)
    assert block is not None
    assert block["kwargs"] == DEFAULTS["mg_mdnf"] | {
        "curve": None, "normalize": "none", "noise_level": 40, "seed": 3,
    }  # fmt: skip


def test_the_defence_of_a_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = CONFIGS / "rs_pgd_l2.json"
    assert blocks.defense_block(str(path)) == json.loads(path.read_text())["defense"]
    assert blocks.defense_block(str(CONFIGS / "none_pgd_l2.json")) is None
    alone = tmp_path / "d.json"
    alone.write_text('{"module": "armory_mdnf.defenses", "name": "MelResynth"}')
    assert blocks.defense_block(str(alone)) == {
        "module": "armory_mdnf.defenses", "name": "MelResynth", "type": "Preprocessor", "kwargs": {},
    }  # fmt: skip
    for text, why in (
        ("[]", "expected a configuration"),
        ('{"name": "n"}', "expected the key 'module' in defense, found kwargs, name, type"),
        ('{"defense": [1]}', "expected defense to be an object, found list"),
        ('{"module": "m", "name": 5}', "defense.name: expected str, found 5"),
        ('{"module": "m", "name": "n", "kwargs": [1]}', r"defense.kwargs: expected dict, found \[1\]"),
        (
            '{"module": "m", "name": "n", "args": [99]}',
            r"defense.args is not supported, found \[99\]: positional arguments",
        ),
        ('{"module": "m", "name": "n", "kwarg": {}}', "unknown key of defense 'kwarg'"),
        ("{", "is not JSON"),
    ):
        alone.write_text(text)
        with pytest.raises(OptionError, match=why) as refused:
            blocks.defense_block(str(alone))
        assert str(refused.value).startswith(str(alone))
        assert cli.main(["defend", "no.wav", "-o", "out.wav", "--defense", str(alone)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line == f"armory-mdnf: error: {refused.value}"


@given(st.text(max_size=30))
def test_any_text_is_a_defence_or_refused(text: str) -> None:
    try:
        block = blocks.defense_block(text)
    except OptionError:
        return
    assert block is None or block["module"] == "armory_mdnf.defenses"


def test_attacks_are_those_of_the_paper() -> None:
    config = json.loads((CONFIGS / "mg_mdnf_eot_l2.json").read_text())["attack"]["kwargs"]
    made = blocks.attack_block("pgd-l2", eot=5)["kwargs"]
    assert config.pop("eps_step") == config["eps"] / 5  # the default step
    assert made == config
    snr = json.loads((CONFIGS / "none_snr30.json").read_text())["attack"]["kwargs"]
    assert blocks.attack_block("pgd-snr", snr_db=30.0, targeted=True)["kwargs"] == snr | {"eot_draws": 1}
    carlini = json.loads((CONFIGS / "none_cw.json").read_text())["attack"]["kwargs"]
    made = blocks.attack_block("cw", targeted=True)["kwargs"]
    assert made == {key: carlini[key] for key in made}
    published = json.loads((CONFIGS / "mg_mdnf_pgd_l2_published.json").read_text())["attack"]["kwargs"]
    made = blocks.attack_block("pgd-l2", gradient="published")["kwargs"]
    assert published.pop("eps_step") == published["eps"] / 5
    assert made == {"eot_draws": 1} | published
    both = blocks.attack_block("cw", targeted=True, eot=3, gradient="published")["kwargs"]
    assert both == blocks.attack_block("cw", targeted=True)["kwargs"] | {"eot_draws": 3, "gradient": "published"}


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("pgd", {}, "unknown attack 'pgd'"),
        ("cw", {}, "--attack cw is targeted"),
        ("pgd-l2", {"gradient": "exakt"}, "--gradient: unknown gradient 'exakt'"),
        ("pgd-l2", {"snr_db": 3.0}, "--snr-db is no option of pgd-l2: expected --eps"),
        ("pgd-snr", {"eps": 3.0}, "--eps is no option of pgd-snr: expected --snr-db"),
    ],
)
def test_attacks_that_are_refused(name: str, options: dict[str, Any], why: str) -> None:
    with pytest.raises(OptionError, match=why):
        blocks.attack_block(name, **options)


# Transcribe.


def test_transcribe(spoken: Path, weights: str, found: Spoken, capsys: Any) -> None:
    assert cli.main(["transcribe", str(spoken), "--model", weights]) == 0
    (text,) = capsys.readouterr().out.splitlines()
    (heard,) = found("transcribe", spoken, "--model", weights)["files"]
    assert heard["transcript"] == text != ""
    assert heard["pieces"] == [{"start_s": 0.0, "end_s": 0.75, "transcript": text}]


def test_transcribe_takes_long_files_of_any_kind(long_one: Path, weights: str, found: Spoken) -> None:
    (heard,) = found("transcribe", long_one, "--model", weights, "--piece-seconds", 6)["files"]
    assert heard["duration_s"] == 8.0
    assert len(heard["pieces"]) > 1
    assert heard["transcript"] == " ".join(p["transcript"] for p in heard["pieces"] if p["transcript"])


def test_a_file_that_cannot_be_read_costs_itself(
    spoken: Path, weights: str, tmp_path: Path, found: Spoken, capsys: Any
) -> None:
    words = ["transcribe", str(tmp_path / "none.wav"), str(spoken), "--model", weights]
    assert cli.main(words) == 3
    told = capsys.readouterr()
    assert told.err == f"left out: no audio file at {tmp_path}/none.wav\n"
    assert told.out.startswith(f"{spoken}: ")
    heard = found(*words, code=3)
    assert [entry["file"] for entry in heard["files"]] == [str(spoken)]
    missing = str(tmp_path / "none.wav")
    assert heard["failed"] == [{"file": missing, "reason": f"no audio file at {missing}"}]
    assert "no audio file" in refused(capsys, *words[:2])


def test_a_short_file_is_named(tmp_path: Path, weights: str, capsys: Any) -> None:
    soundfile.write(tmp_path / "s.wav", np.zeros(20, np.float32), 16000)
    assert f"{tmp_path}/s.wav: recording of 20 samples is too short" in refused(
        capsys, "transcribe", tmp_path / "s.wav", "--model", weights
    )


def test_smoothing_repeats_with_its_seed(spoken: Path, weights: str, found: Spoken) -> None:
    words = ("transcribe", spoken, "--model", weights, "--defense", "rs,snr_db=-5,passes=1")
    first, again, other = found(*words), found(*words), found(*words, "--seed", 1)
    assert first == again
    assert first["files"][0]["transcript"] != other["files"][0]["transcript"]


def test_pieces_fit_the_recogniser(weights: str) -> None:
    estimator = listener.load(weights, None, "cpu")
    audio = speechlike(9 * 16000)
    assert len(listener.cut(estimator, audio)) == 1
    estimator.model.max_samples = 6 * 16000  # as Whisper has a longest utterance
    assert max(len(part) for part in listener.cut(estimator, audio)) <= 6 * 16000


def test_what_is_refused(spoken: Path, weights: str, capsys: Any) -> None:
    words = ["transcribe", spoken, "--model", weights]
    assert "expected 6 to 3600, got 1" in refused(capsys, *words, "--piece-seconds", 1)
    assert "unknown defence 'mg_mdnff'" in refused(capsys, *words, "--defense", "mg_mdnff")
    assert "noise_leve" in refused(capsys, *words, "--defense", "mg_mdnf,noise_leve=1")
    assert "did you mean 'ds2_base'" in refused(capsys, "transcribe", spoken, "--model", "ds2_bas")


# Defend.


def test_defend(spoken: Path, melgan: Vocoder, tmp_path: Path, found: Spoken, monkeypatch: Any) -> None:
    from armory_mdnf.defenses import mel_resynth

    monkeypatch.setattr(mel_resynth, "shared_vocoder", lambda name, device: melgan)
    out = tmp_path / "out.flac"
    told = found("defend", spoken, "-o", out, "--defense", "mg", "--device", "cpu")
    assert told["duration_s"] == 0.75
    defended = read_recording(out, 16000)
    expected, _ = defenses.MelResynth(melgan)(read_recording(spoken, 16000))
    np.testing.assert_allclose(defended, np.clip(expected, -1, 1), rtol=0, atol=1e-5)


def test_defend_by_a_defence_of_others(spoken: Path, tmp_path: Path, found: Spoken) -> None:
    """ART's take one recording as (1, T)."""
    kwargs = {"clip_values": [-1.0, 1.0], "bit_depth": 4}
    block = {
        "module": "art.defences.preprocessor",
        "name": "FeatureSqueezing",
        "kwargs": kwargs,
        "type": "Preprocessor",
    }
    (tmp_path / "squeeze.json").write_text(json.dumps(block))
    found("defend", spoken, "-o", tmp_path / "out.wav", "--defense", tmp_path / "squeeze.json", "--device", "cpu")
    assert len(np.unique(np.round(read_recording(tmp_path / "out.wav", 16000), 3))) <= 16


def test_defend_refuses(spoken: Path, tmp_path: Path, capsys: Any) -> None:
    assert "leaves the recording as it is" in refused(
        capsys, "defend", spoken, "-o", tmp_path / "o.wav", "--defense", "none"
    )
    assert "unknown format of o.txt" in refused(capsys, "defend", spoken, "-o", tmp_path / "o.txt")
    assert "it is a folder" in refused(capsys, "defend", spoken, "-o", _folder(tmp_path / "f.wav"))
    assert not (tmp_path / "o.wav").exists()


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


# Attack.


def test_attack_keeps_its_bound_and_says_what_it_did(spoken: Path, weights: str, tmp_path: Path, found: Spoken) -> None:
    out = tmp_path / "adv.wav"
    told = found("attack", spoken, "-o", out, "--model", weights, "--eps", 0.5, "--steps", 3)
    before, after = read_recording(spoken, 16000), read_recording(out, 16000)
    rounding = 2.0**-23 * len(before) ** 0.5
    assert 0.1 < np.linalg.norm(after - before) <= 0.5 + rounding
    assert told["perturbation"]["l2"] == pytest.approx(np.linalg.norm(after - before), rel=1e-5)
    assert told["attack"]["kwargs"]["max_iter"] == 3
    (heard,) = found("transcribe", out, "--model", weights)["files"]
    assert told["after"] == heard["transcript"] != told["before"]
    assert told["wer_before"] == 0.0
    assert told["wer_after"] > 0


def test_a_targeted_attack_comes_nearer(spoken: Path, weights: str, tmp_path: Path, found: Spoken) -> None:
    out = tmp_path / "adv.flac"
    words = ("attack", spoken, "-o", out, "--model", weights, "--target", "no  way", "--attack", "pgd-linf")
    told = found(*words, "--eps", 0.05, "--steps", 5, "--reference", "yes")
    assert told["target"] == "NO WAY"
    assert told["reached"] is (told["after"] == "NO WAY")
    assert told["reference"] == "YES"
    recognizer = load_recognizer(weights)
    import torch

    losses = [
        float(recognizer.losses(torch.from_numpy(x)[None], torch.tensor([len(x)]), [recognizer.encode("NO WAY")]))
        for x in (read_recording(spoken, 16000), read_recording(out, 16000))
    ]
    assert losses[1] < losses[0]


def test_attack_tells_a_reader(spoken: Path, weights: str, tmp_path: Path, capsys: Any) -> None:
    words = ["attack", str(spoken), "-o", str(tmp_path / "a.ogg"), "--model", weights, "--steps", "1"]
    assert cli.main([*words, "--reference", "hello"]) == 0
    names = [line.split("   ")[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["said", "understood", "under attack", "word errors", "perturbation", "written"]


def test_attack_takes_long_files_untargeted(long_one: Path, weights: str, tmp_path: Path, found: Any) -> None:
    words = ("attack", long_one, "-o", tmp_path / "a.wav", "--model", weights, "--steps", 1, "--piece-seconds", 6)
    assert found(*words)["pieces"] > 1
    assert cli.main([*map(str, words), "--target", "NO"]) == 2


def test_attack_refuses(spoken: Path, weights: str, tmp_path: Path, capsys: Any) -> None:
    words = ["attack", spoken, "-o", tmp_path / "a.wav", "--model", weights]
    assert "--target: expected words, got none" in refused(capsys, *words, "--target", " ")
    assert "eps" in refused(capsys, *words, "--eps", "-1")
    assert "not in the alphabet" in refused(capsys, *words, "--target", "7")
    assert "--attack cw is targeted" in refused(capsys, *words, "--attack", "cw")
    assert not (tmp_path / "a.wav").exists()


def test_progress_counts_gradients(weights: str) -> None:
    from armory_mdnf.attacks import PGD

    estimator = listener.load(weights, None, "cpu")
    seen: list[int] = []
    estimator.tell = seen.append
    PGD(estimator, eps=0.1, max_iter=4).generate([speechlike(6000)])
    assert seen == [1] * 4
