"""The bundled corpora as Armory datasets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from armory.data.datasets import ArmoryDataGenerator, AudioContext, canonical_audio_preprocess, parse_str_slice
from numpy.typing import NDArray

from armory_mdnf.audio.files import read_audio
from armory_mdnf.data.bundled import Utterance, load_split
from armory_mdnf.errors import AudioError, OptionError, choices

SAMPLE_RATE_HZ = 16000
SPLITS = {
    "human": ("human", "eval"),
    "human_dev": ("human", "dev"),
    "synthetic": ("synthetic", "eval"),
    "synthetic_dev": ("synthetic", "dev"),
}
context = AudioContext(x_shape=(None,), sample_rate=SAMPLE_RATE_HZ)


def canonical_preprocessing(batch: NDArray) -> NDArray:
    """Armory's audio preprocessing: int64 samples of 16 bits to float32 in [-1, 1)."""
    return canonical_audio_preprocess(context, batch)


def bundled(
    split: str = "human",
    epochs: int = 1,
    batch_size: int = 1,
    framework: str = "numpy",
    shuffle_files: bool = False,
    index: str | Sequence[int] | None = None,
    class_ids: object = None,
    preprocessing_fn: Callable[[NDArray], NDArray] | None = canonical_preprocessing,
) -> ArmoryDataGenerator:
    """Utterances of a bundled split, always in the same order.

    ``split``: the configuration's ``eval_split``: human, human_dev, synthetic or synthetic_dev.
    ``index``: which utterances, a list of positions or a slice such as ``"[:12]"``; ``--index`` overrides it. All of
    them if left out.

    Yields x as float32 in [-1, 1) of shape (1, T), or a 1-D object array of (T,) for a batch size above 1, and y as an
    array of transcripts. Raises :class:`OptionError` for what the corpora cannot give, :class:`BundleError` for a file
    that is missing or whose checksum differs.
    """
    if split not in SPLITS:
        raise OptionError(choices(split, SPLITS, "split"))
    if framework != "numpy":
        raise OptionError(f"expected framework 'numpy', got {framework!r}: the corpora come as arrays only")
    if shuffle_files:
        raise OptionError("the bundled splits are evaluated in their order: shuffle_files and fitting are not for them")
    if class_ids is not None:
        raise OptionError(f"expected no class_ids, got {class_ids!r}: transcripts have no classes")
    utterances = load_split(*SPLITS[split])
    chosen = [utterances[i] for i in _positions(index, len(utterances))]
    return ArmoryDataGenerator(
        _repeated(chosen, epochs),
        size=len(chosen),
        epochs=epochs,
        batch_size=batch_size,
        preprocessing_fn=preprocessing_fn,
        variable_length=batch_size > 1,
        context=context,
    )


def _positions(index: str | Sequence[int] | None, size: int) -> list[int]:
    if index is None:
        return list(range(size))
    if isinstance(index, str):
        first, last = parse_str_slice(index)
        found = list(range(size)[first:last])
        if not found:
            raise OptionError(f"index {index!r} selects none of the {size} utterances")
        return found
    wrong = [i for i in index if not isinstance(i, int) or isinstance(i, bool) or not 0 <= i < size]
    if wrong or not index:
        raise OptionError(f"expected index to be positions from 0 to {size - 1}, at least one, got {index!r}")
    return sorted(set(index))


def _repeated(utterances: Sequence[Utterance], epochs: int) -> Iterator[tuple[NDArray[np.int64], NDArray]]:
    for _ in range(epochs):
        for utterance in utterances:
            yield _samples(utterance)[None], np.array([utterance.transcript])


def _samples(utterance: Utterance) -> NDArray[np.int64]:
    """The 16-bit samples as integers, which Armory's preprocessing asks for. Exact: FLAC holds 16 bits."""
    x, sample_rate_hz = read_audio(utterance.path)
    if sample_rate_hz != SAMPLE_RATE_HZ:
        raise AudioError(f"{utterance.path}: expected {SAMPLE_RATE_HZ} Hz, found {sample_rate_hz} Hz")
    return np.rint(x.astype(np.float64) * context.quantization).astype(np.int64)
