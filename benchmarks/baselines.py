"""What our step is held against: the bare torch step, and the way that ART's DeepSpeech estimator computes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from armory_mdnf.asr.contract import SpeechRecognizer
from armory_mdnf.asr.deepspeech2.model import BatchRNN, DeepSpeech2Recognizer
from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.asr.huggingface.whisper import Whisper
from armory_mdnf.asr.whisper.ctc import WhisperCTC
from armory_mdnf.asr.whisper.encoder import sinusoids
from armory_mdnf.asr.whisper.features import HOP, N_FFT
from armory_mdnf.audio.resample import resample
from armory_mdnf.vocoders import Vocoder


def bare_step(
    recognizer: SpeechRecognizer, x: Tensor, target: list[int], defend: Callable[[Tensor], Tensor] | None = None
) -> Callable[[], Tensor]:
    """Gradient of the loss with respect to one utterance (1, T), written straight down.

    The loss is the cross entropy of Whisper's decoder, else CTC. ``defend`` maps the audio (1, T) -> (1, T) in the
    graph. Weights get no gradients, nothing is masked, one stft.
    """
    if isinstance(recognizer, Whisper):
        return _bare_decoder_step(recognizer, x, target)
    logits = bare_whisper(recognizer, x) if isinstance(recognizer, WhisperCTC) else bare_deepspeech2(recognizer, x)
    targets, size = torch.tensor(target, device=x.device), torch.tensor([len(target)])

    def step() -> Tensor:
        leaf = x.detach().requires_grad_()
        log_probs = logits(leaf if defend is None else defend(leaf)).log_softmax(-1)
        loss = nn.functional.ctc_loss(log_probs, targets, torch.tensor([log_probs.shape[0]]), size, reduction="sum")
        return torch.autograd.grad(loss, leaf)[0]

    return step


def _bare_decoder_step(recognizer: Whisper, x: Tensor, target: list[int]) -> Callable[[], Tensor]:
    """:func:`bare_step` through Whisper's encoder and decoder as transformers has them, filled up to 30 s."""
    model, prompt, most = recognizer.model, len(recognizer.prompt), recognizer.max_samples
    assert most is not None
    window, filters = torch.hann_window(N_FFT, device=x.device), recognizer.features.filters
    tokens = torch.tensor([[*recognizer.prompt, *target, model.config.eos_token_id]], device=x.device)

    def step() -> Tensor:
        leaf = x.detach().requires_grad_()
        filled = nn.functional.pad(leaf, (0, most - x.shape[1]))
        spectrum = torch.view_as_real(torch.stft(filled, N_FFT, HOP, window=window, return_complex=True)[..., :-1])
        mel = (spectrum.square().sum(-1).transpose(1, 2) @ filters).clamp(min=1e-10).log10()
        features = ((torch.maximum(mel, mel.amax() - 8) + 4) / 4).transpose(1, 2)
        logits = model(features, decoder_input_ids=tokens[:, :-1], use_cache=False).logits[0, prompt - 1 :]
        return torch.autograd.grad(nn.functional.cross_entropy(logits, tokens[0, prompt:], reduction="sum"), leaf)[0]

    return step


def bare_deepspeech2(recognizer: Any, x: Tensor) -> Callable[[Tensor], Tensor]:
    """DeepSpeech2's logits of one utterance like ``x``: (1, T) -> (F, 1, classes)."""
    config, network = recognizer.config, recognizer.network
    n_fft, hop = int(config.sample_rate_hz * config.window_s), int(config.sample_rate_hz * config.stride_s)
    window = torch.hamming_window(n_fft, device=x.device)

    def logits(audio: Tensor) -> Tensor:
        log = torch.stft(audio, n_fft, hop, window=window, pad_mode="reflect", return_complex=True).abs().log1p()
        h = network.conv.seq_module(((log - log.mean()) / log.std())[:, None])
        h = h.flatten(1, 2).permute(2, 0, 1)
        for rnn in network.rnns:
            if rnn.batch_norm is not None:
                h = rnn.batch_norm(h)
            h = rnn.rnn(h)[0].unflatten(2, (2, -1)).sum(2)
        return network.fc(h)

    return logits


def bare_whisper(recognizer: WhisperCTC, x: Tensor) -> Callable[[Tensor], Tensor]:
    """Logits of Whisper's encoder and its CTC head, of one utterance like ``x``: (1, T) -> (F, 1, classes).

    Positions, window and mel filters are made beforehand; the attention is torch's fused one.
    """
    encoder: Any = recognizer.network.encoder
    sizes, gelu = recognizer.config, nn.functional.gelu
    window, filters = torch.hann_window(N_FFT, device=x.device), recognizer.features.filters
    positions = sinusoids(int(recognizer.out_frames(torch.tensor([x.shape[1]]))), sizes.d_model).to(x)

    def heads(h: Tensor) -> Tensor:
        return h.unflatten(-1, (sizes.heads, -1)).transpose(1, 2)

    def logits(audio: Tensor) -> Tensor:
        spectrum = torch.view_as_real(torch.stft(audio, N_FFT, HOP, window=window, return_complex=True)[..., :-1])
        mel = (spectrum.square().sum(-1).transpose(1, 2) @ filters).clamp(min=1e-10).log10()
        h = (torch.maximum(mel, mel.amax() - 8) + 4) / 4
        h = gelu(encoder.conv2(gelu(encoder.conv1(h.transpose(1, 2))))).transpose(1, 2) + positions
        for layer in encoder.layers:
            n, attention = layer.self_attn_layer_norm(h), layer.self_attn
            q, k, v = heads(attention.q_proj(n)), heads(attention.k_proj(n)), heads(attention.v_proj(n))
            mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            h = h + attention.out_proj(mixed)
            h = h + layer.fc2(gelu(layer.fc1(layer.final_layer_norm(h))))
        return recognizer.network.head(encoder.layer_norm(h)).transpose(0, 1)

    return logits


def bare_resynthesis(
    vocoder: Vocoder, curve: Tensor | None = None, noise_level: float = 0.0, rate_hz: int = 16000
) -> Callable[[Tensor], Tensor]:
    """Log mel and generator of one utterance (1, T) -> (1, T) at ``rate_hz``, written straight down.

    With a ``curve`` (n_mels,), MDNF's noise of that level, normalised over the utterance.
    """
    recipe, front_end, generator = vocoder.recipe, vocoder.front_end, vocoder.generator
    context = int(getattr(generator, "aux_context_window", 0))

    def defend(audio: Tensor) -> Tensor:
        x, lengths = resample(audio, torch.tensor([audio.shape[1]]), rate_hz, recipe.sample_rate_hz)
        samples = x.shape[1]
        if recipe.sample_rate_hz != rate_hz:
            x = nn.functional.pad(x, (0, -samples % recipe.hop))  # else no frame reaches the end
        padded = nn.functional.pad(x[:, None], (recipe.padding, recipe.padding), mode="reflect")[:, 0]
        framed = padded.unfold(-1, recipe.n_fft, recipe.hop) * front_end.window
        spectrum = torch.view_as_real(torch.fft.rfft(framed))
        mel = ((spectrum.square().sum(-1) + recipe.power_floor).sqrt() @ front_end.filters).clamp(min=recipe.floor)
        log_mel = mel.log10().transpose(1, 2)
        if front_end.mean is not None and front_end.scale is not None:
            log_mel = (log_mel - front_end.mean[:, None]) / front_end.scale[:, None]
        if curve is not None:
            n = torch.randn_like(log_mel) * curve[:, None]
            log_mel = log_mel + noise_level * n / n.norm()
        if not vocoder.needs_noise:
            wave = generator(log_mel)
        else:
            z = torch.randn(1, 1, log_mel.shape[-1] * recipe.hop, device=x.device)
            wave = generator(z, nn.functional.pad(log_mel, (context, context), mode="replicate"))
        back, _ = resample(wave[:, 0, :samples], lengths, recipe.sample_rate_hz, rate_hz)
        return back[:, : audio.shape[1]]

    return defend


class ArtStyleEstimator(RecognizerEstimator):
    """The same network driven as ART's ``PyTorchDeepSpeech`` drives deepspeech.pytorch's.

    One utterance after another through NumPy, gradients for all weights too, convolutions masked in a loop over the
    batch, packed sequences. Only the way is theirs: weights, features and results are ours.
    """

    def loss_gradient(self, x: Any, y: Any, batch_mode: bool = False) -> Any:
        self._model.requires_grad_(True)
        gradients = []
        for audio, text in zip(x, y, strict=True):
            leaf = torch.tensor(np.asarray(audio, dtype=np.float32), requires_grad=True)
            lengths = torch.tensor([len(audio)])
            spectrogram, frames = self._model.features(leaf[None], lengths)
            logits, frames = _packed(self._model, spectrogram, frames)
            target = torch.tensor(self._model.alphabet.encode(str(text)))
            log_probs = logits.transpose(0, 1).log_softmax(-1)
            loss = nn.functional.ctc_loss(log_probs, target, frames, torch.tensor([len(target)]), reduction="sum")
            loss.backward()
            assert leaf.grad is not None
            gradients.append(leaf.grad.numpy().copy())
        self._model.requires_grad_(False).zero_grad()
        return np.stack(gradients).astype(x.dtype)


def _packed(recognizer: DeepSpeech2Recognizer, spectrogram: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    network: Any = recognizer.network
    out_frames = network.conv.out_frames(frames)
    h = spectrogram
    for layer in network.conv.seq_module:
        h = layer(h)
        mask = torch.zeros_like(h, dtype=torch.bool)
        for row, n in zip(mask, out_frames.tolist(), strict=True):
            if row.shape[-1] > n:
                row.narrow(-1, n, row.shape[-1] - n).fill_(1)
        h = h.masked_fill(mask, 0)
    h = h.flatten(1, 2).permute(2, 0, 1)
    for rnn in network.rnns:
        h = _packed_rnn(rnn, h, out_frames)
    return network.fc(h).transpose(0, 1), out_frames


def _packed_rnn(rnn: BatchRNN, h: Tensor, frames: Tensor) -> Tensor:
    if rnn.batch_norm is not None:
        h = rnn.batch_norm(h)
    unpacked, _ = pad_packed_sequence(rnn.rnn(pack_padded_sequence(h, frames))[0])
    return unpacked.unflatten(2, (2, -1)).sum(2)
