"""One step of the attack for the GPU benchmark: full-size modules, precisions, the step's parts, its FLOPs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from armory_mdnf.asr.ctc import ctc_loss
from armory_mdnf.asr.deepspeech2.model import DeepSpeech2, DeepSpeech2Config, DeepSpeech2Recognizer
from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.attacks.pgd import Batch
from armory_mdnf.attacks.recognizer import Purpose
from armory_mdnf.audio.mel import MELGAN_DESCRIPT
from armory_mdnf.audio.resample import fit_length, resample
from armory_mdnf.data.bundled import load_split
from armory_mdnf.defenses import MDNF
from armory_mdnf.vocoders import make_vocoder
from benchmarks.subjects import speech


def frozen(module: nn.Module) -> nn.Module:
    """Evaluation mode, but for recurrent layers: cuDNN runs their backward pass in training mode only."""
    for part in module.requires_grad_(False).modules():
        part.training = isinstance(part, nn.RNNBase)
    return module


def lowered(module: nn.Module) -> nn.Module:
    """A copy that computes in bfloat16, batch norm with its own float32 weights.

    Not autocast: that runs cuDNN's LSTM in float16 whatever it is asked for, and casts weights anew at each step.
    """
    module = frozen(copy.deepcopy(module))
    for part in module.modules():
        if isinstance(part, (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.Linear, nn.RNNBase)):
            part.to(torch.bfloat16)
    return module


@contextmanager
def precision(name: str, *modules: nn.Module) -> Iterator[list[Any]]:
    """Compute ``modules`` in a precision, float32 in and out; torch's flags and the modules are restored.

    Gives the modules that compute: those themselves, or their copies in bfloat16.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    flags = matmul.allow_tf32, cudnn.allow_tf32
    try:
        matmul.allow_tf32 = cudnn.allow_tf32 = name == "TF32"
        computing = [lowered(module) if name == "bfloat16" else frozen(module) for module in modules]
        for module, copied in zip(modules, computing, strict=True):
            if copied is not module:
                vars(module)["forward"] = partial(_through, copied)
        yield computing
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = flags
        for module in modules:
            vars(module).pop("forward", None)


def _through(copied: nn.Module, x: Tensor, *rest: Any) -> Any:
    found = copied(x.bfloat16(), *rest)
    return found.float() if isinstance(found, Tensor) else (found[0].float(), *found[1:])


def build(device: str, hidden: int, layers: int, channels: int) -> RecognizerEstimator:
    """Random recogniser of these sizes behind MDNF with a random MelGAN of 22.05 kHz, the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        recognizer = DeepSpeech2Recognizer(DeepSpeech2Config(hidden_size=hidden, hidden_layers=layers))
        vocoder = make_vocoder("melgan", MELGAN_DESCRIPT, {"channels": channels}).requires_grad_(False)
        for weight in vocoder.generator.parameters():
            if weight.dim() > 1:  # MelGAN's own start gives a whisper of 1e-6
                nn.init.kaiming_normal_(weight).mul_(0.7)
    kind = "cpu" if device == "cpu" else "gpu"
    frozen(recognizer)
    return RecognizerEstimator(recognizer, [MDNF(vocoder, device_type=kind)], device_type=kind)


def utterances(estimator: RecognizerEstimator, n: int, seconds: float) -> Batch:
    """``n`` different stretches of the dev split, (N, T), with transcripts that fit into them."""
    joined, size = torch.from_numpy(speech(1e6)), int(seconds * estimator.sample_rate)
    x = torch.stack([joined.roll(-11213 * i)[:size] for i in range(n)]).to(estimator.device)
    lengths = torch.full((n,), size, device=estimator.device)
    room = int(estimator.model.out_frames(lengths).min()) // 2  # between equal characters comes a blank
    texts = [u.transcript for u in load_split("human", "dev")]
    targets = [target[:room] for target in estimator.encode([texts[i % len(texts)] for i in range(n)], n)]
    return Batch(x, lengths, targets, range(n))


def networks(estimator: RecognizerEstimator) -> tuple[nn.Module, nn.Module]:
    """What a precision applies to: DeepSpeech2 and the vocoder's generator."""
    return estimator.model.network, estimator.preprocessing_operations[0].vocoder.generator


def parts(estimator: RecognizerEstimator, computing: Sequence[Any], batch: Batch) -> dict[str, Callable[[Tensor], Any]]:
    """The evaluation of a batch cut into its parts, each a function of what the one before gives: audio to losses."""
    (network, generator), (defence,) = computing, estimator.preprocessing_operations
    vocoder, lengths, size = defence.vocoder, batch.lengths, batch.x.shape[1]
    dtype = next(network.conv.parameters()).dtype
    low, high = defence.sample_rate_hz, defence.resample_rate_hz
    raised, raised_lengths = resample(batch.x, lengths, low, high)
    frames = vocoder.recipe.frames(defence._covered(raised, raised_lengths)[1])
    out_frames = estimator.model.out_frames(lengths)
    keys = [(i, Purpose.ATTACK, 0, 0, 0) for i in batch.indices]

    def mel(x: Tensor) -> Tensor:
        return vocoder.mel(*defence._covered(*resample(x, lengths, low, high)))[0]

    def flood(log_mel: Tensor) -> Tensor:
        return defence.perturb(log_mel, frames, defence.draw(len(keys), keys))

    def spectrogram(wave: Tensor) -> Tensor:
        back, _ = resample(fit_length(wave, raised_lengths, raised.shape[1]), raised_lengths, high, low)
        return estimator.model.features(fit_length(back, lengths, size), lengths)[0]

    def recur(h: Tensor) -> Tensor:
        h = h.flatten(1, 2).permute(2, 0, 1)
        for rnn in network.rnns:
            h = rnn(h, out_frames)
        return h

    return {
        "resampling, log mel": mel,
        "noise": flood,
        "vocoder": lambda log_mel: generator(log_mel.to(dtype)).float()[:, 0],
        "resampling, spectrogram": spectrogram,
        "convolutions": lambda x: network.conv(x.to(dtype), out_frames),
        "LSTM": recur,
        "linear layer, CTC": lambda h: ctc_loss(network.fc(h).transpose(0, 1).float(), out_frames, batch.targets),
    }


def alone(functions: dict[str, Callable[[Tensor], Any]], x: Tensor) -> dict[str, Callable[[], Any]]:
    """Forward and backward pass of each part alone, on what the parts before make of x (N, T)."""
    runs: dict[str, Callable[[], Any]] = {}
    for name, function in functions.items():
        leaf = x.detach().requires_grad_()
        with torch.no_grad():
            x = function(leaf)
        runs[name] = partial(_backward, function, leaf, torch.ones_like(x))
    return runs


def _backward(function: Callable[[Tensor], Tensor], leaf: Tensor, outer: Tensor) -> Tensor:
    # A view, as the FLOP counter cannot follow a module that is fed a leaf.
    return torch.autograd.grad(function(leaf.view_as(leaf)), leaf, outer)[0]


def lstm_flops(network: DeepSpeech2, frames: int) -> int:
    """FLOPs of the recurrent layers for one utterance of ``frames`` frames, forward and backward to their input.

    A gate costs a product with the layer's input and one with its state; the way back takes both once more.
    """
    layers: list[Any] = [rnn.rnn for rnn in network.rnns.children()]
    products = sum(layer.weight_ih_l0.shape[0] * (layer.input_size + layer.hidden_size) for layer in layers)
    return 2 * 2 * (2 if network.config.bidirectional else 1) * frames * products


def flops_of(run: Callable[[], object]) -> int:
    """FLOPs of convolutions and matrix products during a run, a multiplication and an addition being two."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def count_flops(estimator: RecognizerEstimator, batch: Batch) -> dict[str, int]:
    """FLOPs of one step by part, for one utterance as long as those of the batch."""
    one = batch.rows([0])
    found = {}
    with precision("float32", *networks(estimator)) as computing:
        for name, run in alone(parts(estimator, computing, one), one.x).items():
            found[name] = flops_of(run)
    # What the counter sees of an LSTM depends on the device: on CUDA nothing.
    found["LSTM"] = lstm_flops(estimator.model.network, int(estimator.model.out_frames(one.lengths)))
    return found
