"""The CPU's switch: off, nothing takes a way of its own, and all results are the same to rounding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from conftest import tiny_recognizer

from armory_mdnf.asr import pipeline
from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.audio import ragged
from armory_mdnf.cpu import channels, frozen_block, frozen_stack, phases
from armory_mdnf.cpu.switch import VARIABLE, WAYS, fast
from armory_mdnf.defenses import MDNF, MelResynth
from armory_mdnf.errors import OptionError
from armory_mdnf.runner import results
from armory_mdnf.vocoders import Vocoder
from armory_mdnf.vocoders import pwg as parallel_wavegan

TARGETS = [[2, 3], [4, 4, 5], [6]]
KEYS = [(i, 0) for i in range(3)]


def attacked(
    vocoder: Vocoder, noisy: bool, utterances: Sequence[np.ndarray]
) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Losses, gradients and transcripts of three utterances behind a defence."""
    kind = MDNF(vocoder, curve=None, seed=1, device_type="cpu") if noisy else MelResynth(vocoder, device_type="cpu")
    estimator = RecognizerEstimator(tiny_recognizer(), preprocessing_defences=kind, device_type="cpu")
    x, lengths = ragged.pad([torch.from_numpy(u) for u in utterances])
    losses = estimator.losses(x, lengths, TARGETS, KEYS)
    return losses, estimator.gradients(x, lengths, TARGETS, KEYS), estimator.transcribe(x, lengths, KEYS)


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("kind", ["melgan", "pwg", "hifigan"])
def test_plain_and_fast_agree_to_rounding(
    kind: str,
    noisy: bool,
    utterances: list[np.ndarray],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vocoder = request.getfixturevalue(kind)
    found = {}
    for way in WAYS:
        monkeypatch.setenv(VARIABLE, way)
        found[way] = attacked(vocoder, noisy, utterances)
    (losses, gradients, texts), (expected, plain, plain_texts) = found["fast"], found["plain"]
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=0)
    for a, b in zip(gradients, plain, strict=True):
        assert float((a - b).norm()) < 1e-3 * float(b.norm())
    assert texts == plain_texts
    assert any(texts)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_the_cpu_is_behind_the_switch(
    way: str,
    melgan: Vocoder,
    pwg: Vocoder,
    hifigan: Vocoder,
    utterances: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, way)
    ways = [(frozen_stack._FrozenStack, "apply"), (channels, "channels_last"), (phases, "_phases")]
    ways += [(frozen_block, "frozen_block")]
    ways += [(parallel_wavegan, "frozen_wavenet"), (Vocoder, "_one_by_one"), (pipeline, "rounds")]
    taken = set()
    for where, name in ways:
        real = getattr(where, name)
        monkeypatch.setattr(where, name, lambda *args, n=name, real=real: (taken.add(n), real(*args))[1])
    for vocoder in (melgan, pwg, hifigan):
        attacked(vocoder, False, utterances)
    assert taken == ({name for _, name in ways} if way == "fast" else set())


def test_unset_empty_and_fast_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(1)
    monkeypatch.delenv(VARIABLE, raising=False)
    assert fast(x)
    usual = results.versions()
    monkeypatch.setenv(VARIABLE, "")
    assert fast(x)
    monkeypatch.setenv(VARIABLE, "fast")
    assert fast(x)
    assert results.versions() == usual
    assert not fast(torch.zeros(1, device="meta"))


def test_what_was_made_the_plain_way_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "plain")
    assert not fast(torch.zeros(1))
    assert results.versions()["cpu"] == "plain"


def test_another_value_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "plane")
    with pytest.raises(OptionError, match=r"ARMORY_MDNF_CPU 'plane'.*'plain'"):
        fast(torch.zeros(1))
