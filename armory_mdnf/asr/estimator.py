"""A speech recogniser as an ART estimator, which ART's and Armory's attacks drive unchanged."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from art.defences.postprocessor.postprocessor import Postprocessor
from art.defences.preprocessor.preprocessor import Preprocessor
from art.estimators.pytorch import PyTorchEstimator
from art.estimators.speech_recognition.speech_recognizer import PytorchSpeechRecognizerMixin, SpeechRecognizerMixin
from torch import Tensor, nn

from armory_mdnf.asr.checkpoints import load_recognizer, recognizer_checksum, save_recognizer
from armory_mdnf.asr.contract import SpeechRecognizer
from armory_mdnf.asr.pipeline import Pipeline
from armory_mdnf.asr.preprocessing import Chain, Draws, select
from armory_mdnf.audio import checks, ragged
from armory_mdnf.audio.noise import Key
from armory_mdnf.errors import AudioError, OptionError, TranscriptError, choices, refuse_unknown
from armory_mdnf.options import GRADIENTS, all_or_none

REDUCTIONS = ("none", "sum", "mean")


class RecognizerEstimator(PytorchSpeechRecognizerMixin, SpeechRecognizerMixin, PyTorchEstimator):
    """A :class:`SpeechRecognizer` behind a chain of defences.

    Audio runs through the defences, the recogniser and its loss in one autograd graph, with one draw of
    the defences' noise per evaluation, and is the only thing that gets a gradient. A prediction averages the
    character probabilities of a CTC recogniser over the passes that a defence asks for, or lets the transcripts of
    another one vote; a loss takes one pass. Results are in the caller's order and do not depend on the batch.

    ``model`` is a recogniser, which the estimator takes over (device, no gradients for its weights), or the name or
    path of a bundle. Audio is of any kind that :func:`armory_mdnf.audio.checks.as_waveforms` takes, at
    :attr:`sample_rate`; ``gradient`` says what :meth:`loss_gradient` gives: the "exact" one, or the "published" one of
    ART's ``PyTorchDeepSpeech``, which takes the loss at one draw of the defences' noise and pulls its gradient back
    through another. Transcripts are strings, one per utterance. Post-processors are refused.

    Raises :class:`OptionError` for clip values other than (-1, 1) or None, :class:`BundleError` for the model.
    """

    estimator_params: ClassVar[list[str]] = [*PyTorchEstimator.estimator_params, "gradient"]

    def __init__(
        self,
        model: SpeechRecognizer | str | os.PathLike[str],
        preprocessing_defences: Preprocessor | list[Preprocessor] | None = None,
        postprocessing_defences: Postprocessor | list[Postprocessor] | None = None,
        preprocessing: tuple[float, float] | Preprocessor | None = None,
        clip_values: tuple[float, float] | None = (-1.0, 1.0),
        device_type: str = "gpu",
        gradient: str = "exact",
    ) -> None:
        if device_type not in ("cpu", "gpu"):
            raise OptionError(choices(device_type, ("cpu", "gpu"), "device_type"))
        self.gradient = gradient
        if not isinstance(model, (SpeechRecognizer, str, os.PathLike)):
            raise OptionError(f"expected a SpeechRecognizer, or a name or a path, as model, got {type(model).__name__}")
        self.weights_name = None if isinstance(model, SpeechRecognizer) else os.fspath(model)
        self._key: Key | None = None  # of the draws that nobody gives keys for, and how many it has given
        self._drawn = 0
        super().__init__(
            model=model if isinstance(model, SpeechRecognizer) else load_recognizer(model),
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
        if self.gradient not in GRADIENTS:
            raise OptionError(choices(self.gradient, GRADIENTS, "gradient"))
        if self.clip_values is not None and not np.array_equal(self.clip_values, [-1, 1]):
            raise OptionError(f"expected clip_values (-1, 1) or None, got {tuple(self.clip_values)}")
        if self.postprocessing_defences:
            raise OptionError("expected no postprocessing_defences: transcripts have none")
        if not isinstance(self._model, SpeechRecognizer):
            raise OptionError(f"expected a SpeechRecognizer as model, got {type(self._model).__name__}")
        rate_hz = self._model.sample_rate_hz
        for defense in self.preprocessing_defences or ():
            if (found := getattr(defense, "sample_rate_hz", rate_hz)) != rate_hz:
                raise OptionError(
                    f"{type(defense).__name__} is for audio at {found} Hz, and the recogniser hears {rate_hz} Hz: give "
                    f"the defence sample_rate_hz={rate_hz}"
                )
        self._model.to(self._device).requires_grad_(False)

    def set_params(self, **params: Any) -> None:
        """Replace options by name, the defences for instance. Raises :class:`OptionError` for an unknown one."""
        refuse_unknown(params, self.estimator_params, type(self).__name__)
        if params.get("device_type", self._device_type) != self._device_type:
            raise OptionError("device_type is fixed when the estimator is made")
        with all_or_none(self):  # a refused value leaves the estimator as it was
            # ART fills the list that there is, which is in force.
            self.preprocessing_operations: list[Preprocessor] = []
            super().set_params(**params)
        if "model" in params:
            self.weights_name = None

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
        ``keys``, one per utterance, fix the defences' noise; by default it is that of the next utterances.
        Raises :class:`AudioError` for audio that cannot be recognised.
        """
        if batch_size < 1:
            raise OptionError(f"expected batch_size >= 1, got {batch_size}")
        waveforms = self._waveforms(x)
        pipeline = self._pipeline()
        passes = pipeline.chain.num_passes
        keys = self._own_keys(len(waveforms)) if keys is None else keys
        draws = pipeline.chain.draw(len(waveforms) * passes, _pass_keys(keys, passes))
        find = pipeline.transcripts if transcription_output else _rows_of(pipeline.probabilities)
        results: list[Any] = [None] * len(waveforms)
        rows = max(1, batch_size // passes) if self._model.exact_batches else 1
        with torch.no_grad():
            for chunk in ragged.by_length([len(u) for u in waveforms], rows=rows):
                chosen = [i * passes + p for i in chunk for p in range(passes)]
                found = find(*self._batch([waveforms[i] for i in chunk]), select(draws, chosen))
                for i, result in zip(chunk, found, strict=True):
                    results[i] = result
        if transcription_output:
            return np.array(results)
        frames = np.array([len(row) for row in results])
        return nn.utils.rnn.pad_sequence(results, batch_first=True).float().numpy(), frames

    # What attacks use: tensors in, tensors of their dtype out.

    @property
    def stochastic(self) -> bool:
        """Whether two evaluations may differ: a defence in front draws noise, or a preprocessor of others might."""
        chain = self._pipeline().chain
        return chain.stochastic or not chain.independent

    @property
    def min_samples(self) -> int:
        """Fewest samples that an utterance must have."""
        return self._model.min_samples

    def encode(self, transcripts: Any, n: int) -> list[list[int]]:
        """Classes of ``n`` transcripts. Raises :class:`TranscriptError` for another number or character."""
        return self._targets(transcripts, n)

    def check(self, sizes: Sequence[int], targets: Sequence[Sequence[int]] | None = None) -> None:
        """Raise for utterances of so many samples that the recogniser cannot take, or that cannot hold their targets.

        :class:`AudioError` and :class:`TranscriptError` name an utterance by its position.
        """
        self._model.check_lengths(torch.tensor(sizes))
        if targets is not None:
            self._model.check_targets(sizes, targets)

    def is_heard(self, transcript: str, target: Sequence[int]) -> bool:
        """Whether a transcript is what a target of :meth:`encode` stands for, white space apart."""
        return self._model.is_heard(transcript, target)

    def losses(self, x: Tensor, lengths: Tensor, targets: Sequence[Sequence[int]], keys: Sequence[Key]) -> Tensor:
        """Loss of each utterance in nats, differentiable in the audio, with the noise that the keys fix.

        Shape: x (N, T), zero beyond lengths (N,), N targets from :meth:`encode`, N keys -> (N,).
        """
        pipeline = self._pipeline()
        return pipeline.losses(x.to(self._dtype), lengths, targets, pipeline.chain.draw(len(keys), keys)).to(x)

    def gradients(
        self,
        x: Tensor,
        lengths: Tensor,
        targets: Sequence[Sequence[int]],
        keys: Sequence[Key],
        back_keys: Sequence[Key] | None = None,
    ) -> Tensor:
        """Gradient of each utterance's :meth:`losses` in its own audio, zero beyond its end.

        With ``back_keys``, the published gradient: the loss at the draws of ``keys``, pulled back through those.
        Shape: x (N, T), lengths (N,), N targets, N keys -> (N, T). On a CPU, parts of the batch run side by side.
        """
        pipeline = self._pipeline()
        draw = pipeline.chain.draw
        back = None if back_keys is None else draw(len(back_keys), back_keys)
        return pipeline.gradients(x.to(self._dtype), lengths, targets, draw(len(keys), keys), back).to(x)

    def transcribe(self, x: Tensor, lengths: Tensor, keys: Sequence[Key]) -> list[str]:
        """What :meth:`predict` gives for a padded batch with these keys. Shape: x (N, T), lengths (N,)."""
        pipeline = self._pipeline()
        passes = pipeline.chain.num_passes
        draws = pipeline.chain.draw(len(keys) * passes, _pass_keys(keys, passes))
        with torch.no_grad():
            return pipeline.transcripts(x.to(self._dtype), lengths, draws)

    def defended(self, x: Any, keys: Sequence[Key] | None = None) -> list[npt.NDArray[Any]]:
        """What the recogniser hears of utterances behind its defences: of several passes, the first that is predicted.

        ``keys`` as in :meth:`predict`. Returns N arrays (T,). Raises :class:`AudioError` as :meth:`predict` does.
        """
        waveforms = self._waveforms(x)
        chain = self._pipeline().chain
        keys = self._own_keys(len(waveforms)) if keys is None else keys
        passes = chain.num_passes
        first = select(
            chain.draw(len(waveforms) * passes, _pass_keys(keys, passes)), range(0, len(waveforms) * passes, passes)
        )
        with torch.no_grad():
            heard, lengths = chain(*self._batch(waveforms), first)
        return [u.cpu().numpy() for u in ragged.unpad(heard, lengths)]

    # What ART and Armory use.

    def loss_gradient(self, x: Any, y: Any, batch_mode: bool = True) -> Any:
        """Gradient of each utterance's loss (nats) with respect to its audio.

        ``y``: N transcripts. Returns the kind, shape and dtype of ``x``. ``batch_mode=False`` takes the utterances one
        after another: the same gradients in less memory.
        Raises :class:`TranscriptError` for a transcript that the recogniser cannot write or too long for its utterance.
        """
        waveforms, targets = self._labelled(x, y)
        pipeline = self._pipeline()
        draws = self._draw(pipeline, len(waveforms))
        back = self._draw(pipeline, len(waveforms)) if self.gradient == "published" else None
        everything = list(range(len(waveforms)))
        gradients: list[npt.NDArray[Any]] = []
        for rows in [everything] if batch_mode else [[i] for i in everything]:
            batch, lengths = self._batch([waveforms[i] for i in rows])
            chosen = [targets[i] for i in rows]
            pulled = None if back is None else select(back, rows)
            gradient = pipeline.gradients(batch, lengths, chosen, select(draws, rows), pulled)
            gradients += [g.cpu().numpy() for g in ragged.unpad(gradient, lengths)]
        return checks.restore(gradients, x)

    def compute_loss(self, x: Any, y: Any, reduction: str = "none") -> npt.NDArray[np.float32]:
        """Loss of each utterance in nats, shape (N,); or their "sum" or "mean". Raises as :meth:`loss_gradient`."""
        if reduction not in REDUCTIONS:
            raise OptionError(choices(reduction, REDUCTIONS, "reduction"))
        waveforms, targets = self._labelled(x, y)
        pipeline = self._pipeline()
        draws = self._draw(pipeline, len(waveforms))
        with torch.no_grad():
            losses = pipeline.losses(*self._batch(waveforms), targets, draws)
        losses = losses if reduction == "none" else getattr(losses, reduction)()
        return losses.float().cpu().numpy()

    def compute_loss_and_decoded_output(
        self, masked_adv_input: Tensor, original_output: Any, real_lengths: npt.ArrayLike | None = None
    ) -> tuple[Tensor, npt.NDArray[Any]]:
        """Summed loss, differentiable in the audio, and the transcripts of the same evaluation.

        Shape: masked_adv_input (N, T), of which each utterance uses its ``real_lengths`` (N,), all of T by default.
        """
        n, size = masked_adv_input.shape
        lengths = torch.full((n,), size) if real_lengths is None else torch.as_tensor(real_lengths).long()
        if lengths.shape != (n,) or int(lengths.min()) < self.min_samples or int(lengths.max()) > size:
            raise AudioError(
                f"expected {n} real_lengths from {self.min_samples} to the {size} samples given, got {lengths.tolist()}"
            )
        targets = self._targets(original_output, n)
        lengths = lengths.to(self._device)
        x = ragged.zero_beyond(masked_adv_input.to(self._device, self._dtype), lengths)
        pipeline = self._pipeline()
        losses, decoded = pipeline.losses_and_transcripts(x, lengths, targets, self._draw(pipeline, n))
        return losses.sum(), np.array(decoded)

    @contextmanager
    def keyed(self, key: Key) -> Iterator[None]:
        """Within the block, draws of the defences' noise that no keys fix are those of this key, in their order.

        So an attack that knows no keys, such as ART's, finds the same noise whatever was evaluated before it.
        """
        before = self._key, self._drawn
        self._key, self._drawn = key, 0
        try:
            yield
        finally:
            self._key, self._drawn = before

    def file_checksums(self) -> dict[str, str]:
        """SHA-256 of the weights, by the name or path that they came by, and of what the recogniser lists by itself."""
        own = {} if self.weights_name is None else {self.weights_name: recognizer_checksum(self.weights_name)}
        return own | getattr(self._model, "file_checksums", dict)()

    def _draw(self, pipeline: Pipeline, n: int) -> Draws:
        return pipeline.chain.draw(n, self._own_keys(n))

    def _own_keys(self, n: int) -> list[Key] | None:
        if self._key is None:
            return None
        self._drawn += n
        return [(*self._key, i) for i in range(self._drawn - n, self._drawn)]

    def _pipeline(self) -> Pipeline:
        return Pipeline(self._model, Chain(self.preprocessing_operations))

    def _waveforms(self, x: Any) -> list[checks.Waveform]:
        waveforms = checks.as_waveforms(x, min_samples=self.min_samples)
        self.check([len(u) for u in waveforms])
        return waveforms

    def _labelled(self, x: Any, y: Any) -> tuple[list[checks.Waveform], list[list[int]]]:
        waveforms = self._waveforms(x)
        targets = self._targets(y, len(waveforms))
        self._model.check_targets([len(u) for u in waveforms], targets)
        return waveforms, targets

    def _batch(self, waveforms: Sequence[checks.Waveform]) -> tuple[Tensor, Tensor]:
        return ragged.pad([torch.tensor(u, device=self._device, dtype=self._dtype) for u in waveforms])

    def _targets(self, y: Any, n: int) -> list[list[int]]:
        if y is None or isinstance(y, (str, bytes)) or len(y) != n:
            found = "None" if y is None else repr(y) if isinstance(y, (str, bytes)) else f"{len(y)}"
            raise TranscriptError(f"expected a sequence of {n} transcripts, one per utterance, got {found}")
        return [self._model.encode(text.decode() if isinstance(text, bytes) else text) for text in y]

    @property
    def _dtype(self) -> torch.dtype:
        return next((p.dtype for p in self._model.parameters()), torch.float32)

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
        raise NotImplementedError("RecognizerEstimator does not train; use armory_mdnf.training")

    def get_activations(self, x: Any, layer: int | str, batch_size: int, framework: bool = False) -> Any:
        """Not here, as in ART's own speech recognisers."""
        raise NotImplementedError("RecognizerEstimator gives no activations of inner layers")

    def save(self, filename: str, path: str | None = None) -> None:
        """Write the recogniser as ``path/filename`` (.safetensors is added), a bundle that the constructor reads."""
        target = Path(path or ".") / filename
        target = target if target.suffix == ".safetensors" else target.with_name(f"{target.name}.safetensors")
        save_recognizer(target, self._model, {"saved_by": type(self).__name__})


def _rows_of(function: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., list[Tensor]]:
    """The function's padded result as tensors of the utterances' own lengths, on the CPU."""
    return lambda *args: [row.cpu() for row in ragged.unpad(*function(*args))]


def _pass_keys(keys: Sequence[Key] | None, passes: int) -> list[Key] | None:
    """A key for each pass of each utterance."""
    return None if keys is None else [(*key, p) for key in keys for p in range(passes)]


DeepSpeech2Estimator = RecognizerEstimator
"""The name from when DeepSpeech2 was the only recogniser, for code that has it."""
