"""Attacks and defences on recognisers of Hugging Face, whatever kind they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from art.attacks.evasion import ProjectedGradientDescentNumpy
from conftest import ragged_array
from huggingface_models import AUDIO, FAMILIES
from runner_folder import CONFIGS, INDEX, lines

from armory_mdnf import cli
from armory_mdnf.asr.checkpoints import load_recognizer, recognizer_checksum
from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.asr.voting import vote
from armory_mdnf.attacks import PGD
from armory_mdnf.audio import ragged
from armory_mdnf.cpu.switch import VARIABLE
from armory_mdnf.defenses import RandomizedSmoothing
from armory_mdnf.errors import OptionError


@pytest.mark.parametrize("family", [*FAMILIES, "whisper"])
def test_arts_attack_and_ours_raise_the_loss(folders: dict[str, Path], whisper: Path, family: str) -> None:
    estimator = RecognizerEstimator((folders | {"whisper": whisper})[family], device_type="cpu")
    texts = np.array(["HELLO"])
    clean = AUDIO[0][None]
    before = float(estimator.compute_loss(clean, texts)[0])
    attacks = [
        ProjectedGradientDescentNumpy(estimator, norm=2, eps=1.0, eps_step=0.3, max_iter=4, verbose=False),
        PGD(estimator, norm="l2", eps=1.0, eps_step=0.3, max_iter=4),
    ]
    for attack in attacks:
        found = attack.generate(clean, texts)
        # A Whisper hears 30 s of which these are a part: its loss hardly moves, yet beyond rounding.
        gain = 1e-6 * before if family == "whisper" else 0.1
        assert float(estimator.compute_loss(found, texts)[0]) > before + gain
        assert np.linalg.norm(found - clean) <= 1.0 + 1e-4


@pytest.mark.parametrize("family", [*FAMILIES, "whisper"])
@pytest.mark.parametrize("published", [False, True])
def test_an_attack_spends_nothing_beyond_the_end_of_an_utterance(
    folders: dict[str, Path], whisper: Path, family: str, published: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whisper hears silence there, whose gradient is not zero: an attack would put a part of its bound into it."""
    monkeypatch.setenv(VARIABLE, "plain")  # as a GPU, whose batch is not parted
    estimator = RecognizerEstimator((folders | {"whisper": whisper})[family], device_type="cpu")
    audio = list(AUDIO[:2])
    x, lengths = ragged.pad([torch.from_numpy(u) for u in audio])
    keys = [(i, 0) for i in range(2)]
    back = [keys] if published else []
    gradient = estimator.gradients(x, lengths, estimator.encode(["HELLO", "HELLO"], 2), keys, *back)
    assert not gradient[0, 4000:].any()
    assert gradient[0, :4000].any()
    found = PGD(estimator, eps=0.5, eps_step=0.3, max_iter=2).generate(ragged_array(audio), ["HELLO", "HELLO"])
    alone = PGD(estimator, eps=0.5, eps_step=0.3, max_iter=2).generate(audio[0][None], ["HELLO"])[0]
    assert abs(np.linalg.norm(found[0] - audio[0]) - np.linalg.norm(alone - audio[0])) < 1e-4


@pytest.mark.parametrize(
    "options",
    [
        {"eot_draws": 2},
        {"gradient": "published", "keep": "best", "selection_draws": 2},
        {"random_start": True, "restarts": 2, "targeted": True, "stop_on_success": True},
    ],
)
def test_weights_of_double_precision_are_attacked(folders: dict[str, Path], options: dict[str, Any]) -> None:
    recognizer = load_recognizer(folders["hubert"]).double()
    estimator = RecognizerEstimator(recognizer, RandomizedSmoothing(15.0, device_type="cpu"), device_type="cpu")
    audio = ragged_array(AUDIO[:2])
    found = PGD(estimator, eps=0.5, max_iter=1, **options).generate(audio, ["HELLO", "HELLO"])
    assert [u.dtype for u in found] == [np.float32] * 2
    assert all(np.abs(u - before).max() > 0 for u, before in zip(found, audio, strict=True))


def test_what_attacks_get_is_of_the_dtype_that_they_give(folders: dict[str, Path]) -> None:
    estimator = RecognizerEstimator(load_recognizer(folders["hubert"]).double(), device_type="cpu")
    x, lengths = ragged.pad([torch.from_numpy(audio) for audio in AUDIO])
    targets, keys = estimator.encode(["HELLO"] * 3, 3), [(i, 0) for i in range(3)]
    gradient = estimator.gradients(x, lengths, targets, keys)
    leaf = x.clone().requires_grad_()
    losses = estimator.losses(leaf, lengths, targets, keys)
    losses.sum().backward()
    assert gradient.dtype == losses.dtype == leaf.grad.dtype == torch.float32
    theirs = ragged.zero_beyond(leaf.grad, lengths)
    torch.testing.assert_close(gradient, theirs, rtol=1e-5, atol=1e-6 * float(theirs.abs().max()))
    exact = estimator.gradients(x.double(), lengths, targets, keys)
    torch.testing.assert_close(gradient, exact.float())
    assert estimator.transcribe(x, lengths, keys) == estimator.predict(ragged_array(AUDIO)).tolist()


def test_smoothing_averages_probabilities_or_lets_transcripts_vote(folders: dict[str, Path], whisper: Path) -> None:
    for folder in (folders["hubert"], whisper):
        defence = RandomizedSmoothing(snr_db=15.0, passes=3, device_type="cpu")
        estimator = RecognizerEstimator(folder, preprocessing_defences=defence, device_type="cpu")
        assert isinstance(estimator.predict(AUDIO[0][None])[0], str)
    with pytest.raises(OptionError, match="no probabilities per frame"):
        estimator.predict(AUDIO[0][None], transcription_output=False)


def test_the_vote_takes_the_transcript_nearest_to_all_and_the_earliest_of_equals() -> None:
    assert vote(["A X Y", "A B", "A B C"]) == "A B"
    assert [vote(["A", "B"]), vote(["B", "A"])] == ["A", "B"]


def test_a_configuration_that_names_a_folder_runs_natively(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((CONFIGS / "none_benign.json").read_text())
    config["model"]["model_kwargs"]["weights"] = str(folders["hubert"])
    config["dataset"]["index"] = INDEX[:2]
    (tmp_path / "hf.json").write_text(json.dumps(config))
    assert cli.main(["run", str(tmp_path / "hf.json"), "--output-dir", str(tmp_path / "out")]) == 0, capsys.readouterr()
    (folder,) = (tmp_path / "out").iterdir()
    assert set(lines(folder)) == set(INDEX[:2])
    weights = json.loads((folder / "run.json").read_text())["weights"]
    assert weights == {str(folders["hubert"]): recognizer_checksum(folders["hubert"])}
