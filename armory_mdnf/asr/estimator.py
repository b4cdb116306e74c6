"""DeepSpeech2 as an ART estimator, which ART's and Armory's attacks drive unchanged."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from art.defences.postprocessor.postprocessor import Postprocessor
from art.defences.preprocessor.preprocessor import Preprocessor
from art.estimators.pytorch import PyTorchEstimator
from art.estimators.speech_recognition.speech_recognizer import PytorchSpeechRecognizerMixin, SpeechRecognizerMixin
from torch import Tensor, nn

from armory_mdnf.asr.checkpoints import CTCRecognizer, load_recognizer, save_recognizer
from armory_mdnf.asr.ctc import check_targets, ctc_loss
from armory_mdnf.asr.decoding import greedy_decode
from armory_mdnf.asr.preprocessing import Chain, Draws, select
from armory_mdnf.asr.threads import rounds, side_by_side
from armory_mdnf.audio import checks, ragged
from armory_mdnf.audio.noise import Key
from armory_mdnf.errors import AudioError, OptionError, TranscriptError, choices, refuse_unknown

REDUCTIONS = ("none", "sum", "mean")
# Audio that a CPU's thread takes at once: less, and recurrent layers batch too little; more, and caches do not hold it.
PART_SECONDS = 8.0


class DeepSpeech2Estimator(PytorchSpeechRecognizerMixin, SpeechRecognizerMixin, PyTorchEstimator):
    """A :class:`Recognizer` behind a chain of defences.

    Audio runs through the defences, the features, the network and the CTC loss in one autograd graph, with one draw of
    the defences' noise an evaluation, and is the only thing that gets a gradient. A prediction averages the per-frame
    character probabilities over the passes that a defence asks for; a loss takes one pass. Results are in the caller's
    order and do not depend on the batch.

    ``model`` is a recogniser, which the estimator takes over (device, no gradients for its weights), or the name or
    path of a bundle. Audio is of any kind that :func:`armory_mdnf.audio.checks.as_waveforms` takes, at
    :attr:`sample_rate`; transcripts are strings, one an utterance. Post-processors are refused.

    Raises :class:`OptionError` for clip values other than (-1, 1) or None, :class:`BundleError` for the model.
    """

    def __init__(
        self,
        model: CTCRecognizer | str | os.PathLike[str],
        preprocessing_defences: Preprocessor | list[Preprocessor] | None = None,
        postprocessing_defences: Postprocessor | list[Postprocessor] | None = None,
        preprocessing: tuple[float, float] | Preprocessor | None = None,
        clip_values: tuple[float, float] | None = (-1.0, 1.0),
        device_type: str = "gpu",
    ) -> None:
        if device_type not in ("cpu", "gpu"):
            raise OptionError(choices(device_type, ("cpu", "gpu"), "device_type"))
        super().__init__(
            model=model if isinstance(model, CTCRecognizer) else load_recognizer(model),
            clip_values=clip_values,
            channels_first=None,
            preprocessing_defences=preprocessing_defences,
            postprocessing_defences=postprocessing_defences,
            preprocessing=preprocessing,
            device_type=device_type,
        )
        self._check_params()

    def _check_params(self) -> None:
        super()._check_params()
        if self.clip_values is not None and not np.array_equal(self.clip_values, [-1, 1]):
            raise OptionError(f"expected clip_values (-1, 1) or None, got {tuple(self.clip_values)}")
        if self.postprocessing_defences:
            raise OptionError("expected no postprocessing_defences: transcripts have none")
        if not isinstance(self._model, CTCRecognizer):
            raise OptionError(f"expected a Recognizer as model, got {type(self._model).__name__}")
        self._model.to(self._device).requires_grad_(False)

    def set_params(self, **params: Any) -> None:
        """Replace options by name, the defences for instance. Raises :class:`OptionError` for an unknown one."""
        refuse_unknown(params, self.estimator_params, type(self).__name__)
        if params.get("device_type", self._device_type) != self._device_type:
            raise OptionError("device_type is fixed when the estimator is made")
        super().set_params(**params)

    def predict(
        self,
        x: Any,
        batch_size: int = 128,
        transcription_output: bool = True,
        keys: Sequence[Key] | None = None,
    ) -> npt.NDArray[Any] | tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Transcripts, an array of N strings; or per-frame character probabilities.

        With ``transcription_output=False``: probabilities (N, F, classes), zero beyond each utterance's frames, and
        the numbers of frames (N,). ``batch_size`` bounds the utterances, times passes, that are held at once.
        ``keys``, one an utterance, fix the defences' noise; by default it is that of the next utterances.
        Raises :class:`AudioError` for audio that cannot be recognised.
        """
        if batch_size < 1:
            raise OptionError(f"expected batch_size >= 1, got {batch_size}")
        waveforms = self._waveforms(x)
        chain = self._chain()
        draws = chain.draw(len(waveforms) * chain.num_passes, _pass_keys(keys, chain.num_passes))
        results: list[Tensor] = [torch.empty(0)] * len(waveforms)
        with torch.no_grad():
            for chunk in ragged.by_length([len(u) for u in waveforms], rows=max(1, batch_size // chain.num_passes)):
                rows = [i * chain.num_passes + p for i in chunk for p in range(chain.num_passes)]
                batch = self._batch([waveforms[i] for i in chunk])
                found = self._probabilities(*batch, chain, select(draws, rows))
                for i, row in zip(chunk, ragged.unpad(*found), strict=True):
                    results[i] = row.cpu()
        probabilities = nn.utils.rnn.pad_sequence(results, batch_first=True)
        frames = torch.tensor([len(row) for row in results])
        if transcription_output:
            return np.array(greedy_decode(probabilities, frames, self._model.alphabet))
        return probabilities.numpy().astype(np.float32), frames.numpy()

    def _probabilities(self, x: Tensor, lengths: Tensor, chain: Chain, draws: Draws) -> tuple[Tensor, Tensor]:
        """Mean over the passes of the character probabilities (N, F, classes), and the frames (N,)."""
        passes = chain.num_passes
        rows, row_lengths = x.repeat_interleave(passes, 0), lengths.repeat_interleave(passes)
        logits, frames = self._logits(rows, row_lengths, chain, draws)
        return logits.softmax(-1).unflatten(0, (-1, passes)).mean(1), frames[::passes]

    # What attacks use: tensors in, tensors out.

    @property
    def stochastic(self) -> bool:
        """Whether a defence in front draws noise, so that two evaluations differ."""
        return self._chain().stochastic

    @property
    def min_samples(self) -> int:
        """Fewest samples that an utterance must have."""
        return self._model.features.min_samples

    def encode(self, transcripts: Any, n: int) -> list[list[int]]:
        """Character indices of ``n`` transcripts. Raises :class:`TranscriptError` for another number or character."""
        return self._targets(transcripts, n)

    def losses(self, x: Tensor, lengths: Tensor, targets: Sequence[Sequence[int]], keys: Sequence[Key]) -> Tensor:
        """CTC loss of each utterance in nats, differentiable in the audio, with the noise that the keys fix.

        Shape: x (N, T), zero beyond lengths (N,), N targets from :meth:`encode`, N keys -> (N,).
        """
        chain = self._chain()
        logits, frames = self._logits(x, lengths, chain, chain.draw(len(keys), keys))
        return ctc_loss(logits, frames, targets)

    def gradients(self, x: Tensor, lengths: Tensor, targets: Sequence[Sequence[int]], keys: Sequence[Key]) -> Tensor:
        """Gradient of each utterance's :meth:`losses` in its own audio, zero beyond its end.

        Shape: x (N, T), lengths (N,), N targets, N keys -> (N, T). On a CPU, parts of the batch run side by side.
        """
        chain = self._chain()
        return self._gradients(x, lengths, targets, chain, chain.draw(len(keys), keys))

    def _gradients(
        self, x: Tensor, lengths: Tensor, targets: Sequence[Sequence[int]], chain: Chain, draws: Draws
    ) -> Tensor:
        result = torch.zeros_like(x)

        def gradient(rows: list[int]) -> None:
            width = int(lengths[rows].max())
            leaf = x[rows, :width].detach().requires_grad_()
            with torch.enable_grad():
                logits, frames = self._model(*chain(leaf, lengths[rows], select(draws, rows)))
                loss = ctc_loss(logits, frames, [targets[i] for i in rows]).sum()
                result[rows, :width] = torch.autograd.grad(loss, leaf)[0]

        turns = [[list(range(len(x)))]]
        if x.device.type == "cpu" and chain.independent:
            check_targets(self._model.out_frames(lengths).tolist(), targets)  # named by position in the whole batch
            turns = rounds(lengths.tolist(), torch.get_num_threads(), PART_SECONDS * self.sample_rate)
        with torch.enable_grad(), self._evaluation_mode():
            for parts in turns:
                side_by_side(gradient, parts)
        return result

    def transcribe(self, x: Tensor, lengths: Tensor, keys: Sequence[Key]) -> list[str]:
        """What :meth:`predict` gives for a padded batch with these keys. Shape: x (N, T), lengths (N,)."""
        chain = self._chain()
        draws = chain.draw(len(keys) * chain.num_passes, _pass_keys(keys, chain.num_passes))
        with torch.no_grad():
            return greedy_decode(*self._probabilities(x, lengths, chain, draws), self._model.alphabet)

    # What ART and Armory use.

    def loss_gradient(self, x: Any, y: Any, batch_mode: bool = True) -> Any:
        """Gradient of each utterance's CTC loss (nats, summed over frames) with respect to its audio.

        ``y``: N transcripts. Returns the kind, shape and dtype of ``x``. ``batch_mode=False`` takes the utterances one
        after another: the same gradients in less memory.
        Raises :class:`TranscriptError` for a transcript outside the alphabet or too long for its utterance.
        """
        waveforms = self._waveforms(x)
        targets = self._targets(y, len(waveforms))
        chain = self._chain()
        draws = chain.draw(len(waveforms))
        everything = list(range(len(waveforms)))
        gradients: list[npt.NDArray[Any]] = []
        for rows in [everything] if batch_mode else [[i] for i in everything]:
            batch, lengths = self._batch([waveforms[i] for i in rows])
            gradient = self._gradients(batch, lengths, [targets[i] for i in rows], chain, select(draws, rows))
            gradients += [g.cpu().numpy() for g in ragged.unpad(gradient, lengths)]
        return checks.restore(gradients, x)

    def compute_loss(self, x: Any, y: Any, reduction: str = "none") -> npt.NDArray[np.float32]:
        """CTC loss of each utterance in nats, shape (N,); or their "sum" or "mean". Raises as :meth:`loss_gradient`."""
        if reduction not in REDUCTIONS:
            raise OptionError(choices(reduction, REDUCTIONS, "reduction"))
        waveforms = self._waveforms(x)
        targets = self._targets(y, len(waveforms))
        chain = self._chain()
        with torch.no_grad():
            logits, frames = self._logits(*self._batch(waveforms), chain, chain.draw(len(waveforms)))
            losses = ctc_loss(logits, frames, targets)
        losses = losses if reduction == "none" else getattr(losses, reduction)()
        return losses.cpu().numpy().astype(np.float32)

    def compute_loss_and_decoded_output(
        self, masked_adv_input: Tensor, original_output: Any, real_lengths: npt.ArrayLike | None = None
    ) -> tuple[Tensor, npt.NDArray[Any]]:
        """Summed CTC loss, differentiable in the audio, and the transcripts of the same evaluation.

        Shape: masked_adv_input (N, T), of which each utterance uses its ``real_lengths`` (N,), all of T by default.
        """
        n, size = masked_adv_input.shape
        lengths = torch.full((n,), size) if real_lengths is None else torch.as_tensor(real_lengths).long()
        if lengths.shape != (n,) or int(lengths.min()) < self.min_samples or int(lengths.max()) > size:
            raise AudioError(f"expected {n} real_lengths within the {size} samples given, got {lengths.tolist()}")
        targets = self._targets(original_output, n)
        lengths = lengths.to(self._device)
        x = ragged.zero_beyond(masked_adv_input.to(self._device, self._dtype), lengths)
        chain = self._chain()
        logits, frames = self._logits(x, lengths, chain, chain.draw(n))
        decoded = greedy_decode(logits.detach(), frames, self._model.alphabet)
        return ctc_loss(logits, frames, targets).sum(), np.array(decoded)

    def _logits(self, x: Tensor, lengths: Tensor, chain: Chain, draws: Draws) -> tuple[Tensor, Tensor]:
        """Audio (N, T), zero beyond lengths (N,) -> logits (N, F, classes), frames (N,). The one graph."""
        with self._evaluation_mode():
            return self._model(*chain(x, lengths, draws))

    @contextmanager
    def _evaluation_mode(self) -> Iterator[None]:
        """Evaluation mode, but for recurrent layers under a gradient; the caller's modes come back."""
        modes = [(module, module.training) for module in self._model.modules()]
        try:
            for module, _ in modes:
                # cuDNN's recurrent layers run backward in training mode only; they have no dropout.
                module.training = isinstance(module, nn.RNNBase) and torch.is_grad_enabled()
            yield
        finally:
            for module, training in modes:
                module.training = training

    def _chain(self) -> Chain:
        return Chain(self.preprocessing_operations)

    def _waveforms(self, x: Any) -> list[checks.Waveform]:
        return checks.as_waveforms(x, min_samples=self.min_samples)

    def _batch(self, waveforms: Sequence[checks.Waveform]) -> tuple[Tensor, Tensor]:
        return ragged.pad([torch.tensor(u, device=self._device, dtype=self._dtype) for u in waveforms])

    def _targets(self, y: Any, n: int) -> list[list[int]]:
        if y is None or isinstance(y, (str, bytes)) or len(y) != n:
            found = "None" if y is None else repr(y) if isinstance(y, (str, bytes)) else f"{len(y)}"
            raise TranscriptError(f"expected a sequence of {n} transcripts, one an utterance, got {found}")
        return [self._model.alphabet.encode(text.decode() if isinstance(text, bytes) else text) for text in y]

    @property
    def _dtype(self) -> torch.dtype:
        return next(self._model.parameters()).dtype

    @property
    def sample_rate(self) -> int:
        """Rate in Hz of the audio that the recogniser expects."""
        return self._model.sample_rate_hz

    @property
    def device(self) -> torch.device:
        """Device of the recogniser."""
        return self._device

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Shape of one utterance: any length."""
        return (None,)

    def to_training_mode(self) -> None:
        """Training mode, as ART's attacks ask for; evaluations freeze batch norm and dropout whatever the mode."""
        self._model.train()

    def fit(self, x: Any, y: Any, batch_size: int = 128, nb_epochs: int = 20) -> None:
        """Not here: ``armory_mdnf.training`` trains recognisers."""
        raise NotImplementedError("DeepSpeech2Estimator does not train; use armory_mdnf.training")

    def get_activations(self, x: Any, layer: int | str, batch_size: int, framework: bool = False) -> Any:
        """Not here, as in ART's own speech recognisers."""
        raise NotImplementedError("DeepSpeech2Estimator gives no activations of inner layers")

    def save(self, filename: str, path: str | None = None) -> None:
        """Write the recogniser as ``path/filename`` (.safetensors is added), a bundle that the constructor reads."""
        target = Path(path or ".") / filename
        target = target if target.suffix == ".safetensors" else target.with_name(f"{target.name}.safetensors")
        save_recognizer(target, self._model, {"saved_by": type(self).__name__})


def _pass_keys(keys: Sequence[Key] | None, passes: int) -> list[Key] | None:
    """A key for each pass of each utterance."""
    return None if keys is None else [(*key, p) for key in keys for p in range(passes)]
