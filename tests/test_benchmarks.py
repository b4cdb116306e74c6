"""What the benchmark compares must compute the same thing."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest
import torch
from conftest import speechlike, tiny_recognizer

from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.asr.whisper.ctc import WhisperCTC, WhisperCTCConfig
from armory_mdnf.attacks import PGD
from armory_mdnf.defenses import MDNF, MelResynth
from benchmarks import attack
from benchmarks.baselines import ArtStyleEstimator, bare_resynthesis, bare_step
from benchmarks.subjects import EPS, WHISPER, estimator
from benchmarks.timing import Timing, interleaved

X = speechlike(6400)


@pytest.mark.parametrize("kind", ["none", "melgan", "mdnf without noise"])
def test_the_bare_step_is_our_gradient(kind: str, melgan: Any) -> None:
    made = {"none": [], "melgan": [MelResynth(melgan, device_type="cpu")]}
    defences = made.get(kind, [MDNF(melgan, 0.0, None, device_type="cpu")])
    ours = RecognizerEstimator(tiny_recognizer(), preprocessing_defences=defences or None, device_type="cpu")
    bare = None
    if defences:
        bare = bare_resynthesis(melgan, *([defences[0].curve, 0.0] if isinstance(defences[0], MDNF) else []))
    step = bare_step(ours.model.eval(), torch.from_numpy(X)[None], ours.encode(["AB C"], 1)[0], bare)
    expected = ours.loss_gradient(X[None], ["AB C"])
    np.testing.assert_allclose(step().numpy(), expected, atol=1e-3 * np.abs(expected).max())


def test_the_bare_step_through_whispers_encoder_is_our_gradient() -> None:
    config = WhisperCTCConfig(n_mels=16, d_model=24, layers=2, heads=2, ffn=32)
    torch.manual_seed(4)
    ours = RecognizerEstimator(WhisperCTC(config), device_type="cpu")
    step = bare_step(ours.model.eval(), torch.from_numpy(X)[None], ours.encode(["AB C"], 1)[0])
    expected = ours.loss_gradient(X[None], ["AB C"])
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(step().numpy(), expected, atol=1e-3 * np.abs(expected).max())


def test_the_bare_attack_on_whisper_ctc_is_ours() -> None:
    model, x = estimator(WHISPER), X[None]
    assert sum(p.numel() for p in model.model.parameters()) == pytest.approx(8e6, rel=0.05)
    ours = PGD(model, norm="l2", eps=EPS, max_iter=attack.STEPS).generate(x, ["AB C"], indices=[0])
    found = attack.bare_pgd(WHISPER, X, "AB C")().numpy()
    np.testing.assert_allclose(found - x, ours - x, atol=1e-2 * np.abs(ours - x).max())


def test_the_bare_noise_has_mdnfs_norm(melgan: Any) -> None:
    """Through a generator that gives its input back the noise can be seen."""
    seen = []
    melgan.generator.forward = lambda mel: seen.append(mel) or mel.mean(1, keepdim=True).repeat_interleave(64, 2)
    x, curve = torch.from_numpy(X)[None], torch.linspace(0.1, 1, 20)
    bare_resynthesis(melgan)(x)
    bare_resynthesis(melgan, curve, 7.0)(x)
    assert float((seen[1] - seen[0]).norm()) == pytest.approx(7.0, rel=1e-4)


def test_arts_way_gives_our_gradient_and_leaves_the_weights_as_they_were() -> None:
    theirs = ArtStyleEstimator(tiny_recognizer(), device_type="cpu")
    expected = RecognizerEstimator(tiny_recognizer(), device_type="cpu").loss_gradient(X[None], ["AB C"])
    found = theirs.loss_gradient(X[None], np.array(["AB C"]))
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())
    assert not any(p.requires_grad or p.grad is not None for p in theirs.model.parameters())


def test_candidates_take_turns() -> None:
    order: list[str] = []
    times = interleaved({name: lambda name=name: order.append(name) for name in "ab"}, rounds=3)
    assert order == list("abbaabba")
    assert {name: len(t.seconds) for name, t in times.items()} == {"a": 3, "b": 3}


def test_a_longer_run_takes_longer() -> None:
    times = interleaved({"short": lambda: time.sleep(0.002), "long": lambda: time.sleep(0.02)}, rounds=3)
    assert times["long"].ratio(times["short"])[0] > 2


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    assert Timing((1.0, 4.0, 9.0)).ratio(Timing((1.0, 2.0, 3.0))) == (2.0, 1.0, 3.0)


def test_asr_attacks_takes_the_same_steps() -> None:
    pytest.importorskip("asr_attacks", reason="asr-attacks is not installed: pip install armory-mdnf[dev]")
    (ours, art) = attack.peers(rounds=1)
    assert ours["share of samples that differ"] == 0
    # Rounding turns the sign of gradients next to zero.
    assert art["share of samples that differ"] < 0.01


def test_the_table_has_a_line_a_row(tmp_path: Any) -> None:
    one = attack.row("step", "none", Timing((2.0,)), Timing((1.0,)), "bare", "<= 1.05")
    text = attack.table({"rows": [json.loads(json.dumps(one))]})
    assert text.splitlines()[-1] == "| step | none | 2.000 | 2.00 | 2.00 to 2.00 | bare | <= 1.05 |"


def test_a_constant_and_a_slope_are_found_and_so_is_what_bends() -> None:
    straight = attack.straight_line("none", [0.02 + 0.01 * s for s in attack.LENGTHS_S])
    assert straight["constant seconds"] == pytest.approx(0.02)
    assert (straight["seconds"], straight["ratio"]) == (pytest.approx(0.01), pytest.approx(1))
    bent = attack.straight_line("none", [0.001 * s**2 for s in attack.LENGTHS_S])
    assert abs(bent["ratio"] - 1) > 0.2
