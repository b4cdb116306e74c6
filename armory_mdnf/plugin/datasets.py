"""The bundled corpora and a local LibriSpeech as Armory datasets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from armory.data.datasets import ArmoryDataGenerator, AudioContext, canonical_audio_preprocess
from numpy.typing import NDArray

from armory_mdnf.attacks.evasion import check_count
from armory_mdnf.data import selection
from armory_mdnf.data.bundled import Utterance
from armory_mdnf.data.selection import SAMPLE_RATE_HZ
from armory_mdnf.errors import OptionError, quoted

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

    ``split``: the configuration's ``eval_split``: human, human_dev, synthetic or synthetic_dev; or the path of
    recordings of your own, in a layout of :mod:`armory_mdnf.data.own`.
    ``index``: which utterances, a list of positions or a slice such as ``"[:12]"``; ``--index`` overrides it. All of
    them if left out.

    Yields x as float32 in [-1, 1) of shape (1, T), or a 1-D object array of (T,) for a batch size above 1, and y as an
    array of transcripts. Raises :class:`OptionError` for what the corpora cannot give, :class:`BundleError` for a file
    that is missing or whose checksum differs.
    """
    _refuse(split, epochs, batch_size, framework, shuffle_files, class_ids)
    return _generator(selection.bundled(split, index), epochs, batch_size, preprocessing_fn)


def librispeech(
    split: str = "test_clean",
    epochs: int = 1,
    batch_size: int = 1,
    framework: str = "numpy",
    shuffle_files: bool = False,
    index: str | Sequence[int] | None = None,
    class_ids: object = None,
    preprocessing_fn: Callable[[NDArray], NDArray] | None = canonical_preprocessing,
) -> ArmoryDataGenerator:
    """Utterances of a LibriSpeech split from a local folder in OpenSLR's layout; nothing is downloaded.

    ``split``: dev-clean, dev-other, test-clean, test-other, train-clean-100, train-clean-360 or train-other-500, in
    this spelling or Armory's (``test_clean``). The rest as for :func:`bundled`. The order is fixed, and the first N
    utterances are a sample of the split's speakers: see :mod:`armory_mdnf.data.librispeech`, which also says where the
    folder is. Armory's own route through TensorFlow is ``armory.data.datasets.librispeech``.

    Raises :class:`OptionError` for what the split cannot give, :class:`BundleError` for a folder or file that is
    missing or damaged, :class:`AudioError` for audio that cannot be decoded.
    """
    _refuse(split, epochs, batch_size, framework, shuffle_files, class_ids)
    return _generator(selection.librispeech(split, index), epochs, batch_size, preprocessing_fn)


def _refuse(split: str, epochs: int, batch_size: int, framework: str, shuffle_files: bool, class_ids: object) -> None:
    if not isinstance(split, str):
        raise OptionError(f"expected split to be the name of one, got {quoted(split)}")
    check_count("epochs", epochs, least=1)
    check_count("batch_size", batch_size, least=1)
    if framework != "numpy":
        raise OptionError(f"expected framework 'numpy', got {quoted(framework)}: the corpora come as arrays only")
    if shuffle_files:
        raise OptionError("the splits are evaluated in their order: shuffle_files and fitting are not for them")
    if class_ids is not None:
        raise OptionError(f"expected no class_ids, got {quoted(class_ids)}: transcripts have no classes")


def _generator(
    chosen: Sequence[tuple[int, Utterance]],
    epochs: int,
    batch_size: int,
    preprocessing_fn: Callable[[NDArray], NDArray] | None,
) -> ArmoryDataGenerator:
    return ArmoryDataGenerator(
        _repeated([utterance for _, utterance in chosen], epochs),
        size=len(chosen),
        epochs=epochs,
        batch_size=batch_size,
        preprocessing_fn=preprocessing_fn,
        variable_length=batch_size > 1,
        context=context,
    )


def _repeated(utterances: Sequence[Utterance], epochs: int) -> Iterator[tuple[NDArray[np.int64], NDArray]]:
    for _ in range(epochs):
        for utterance in utterances:
            yield _samples(utterance)[None], np.array([utterance.transcript])


def _samples(utterance: Utterance) -> NDArray[np.int64]:
    """The 16-bit samples as integers, which Armory's preprocessing asks for. Exact: FLAC holds 16 bits."""
    x = selection.read_samples(utterance)
    return np.rint(x.astype(np.float64) * context.quantization).astype(np.int64)
