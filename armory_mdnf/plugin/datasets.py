"""The bundled corpora, one's own recordings and a local LibriSpeech as Armory datasets, and what makes one of a list.

Armory is imported when it asks for its generator, and not before: the native runner takes the utterances themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from armory_mdnf.data import librispeech as openslr
from armory_mdnf.data import selection
from armory_mdnf.data.bundled import Utterance
from armory_mdnf.data.own import load_own
from armory_mdnf.data.selection import SAMPLE_RATE_HZ, Index
from armory_mdnf.errors import ArmoryMdnfError, BundleError, OptionError, cause, quoted
from armory_mdnf.options import POSITIVE, check_option, count

QUANTIZATION = 1 << 15  # 16-bit samples as integers


def canonical_preprocessing(batch: NDArray) -> NDArray:
    """Armory's audio preprocessing: int64 samples of 16 bits to float32 in [-1, 1)."""
    from armory.data.datasets import canonical_audio_preprocess

    return canonical_audio_preprocess(_context(), batch)


class Dataset:
    """A dataset as a configuration's ``dataset`` block names it: called by Armory, asked for utterances by the runner.

    ``listing`` gives all utterances of a split, always in the same order; ``strict`` False also those that cannot be
    used, with their ``problem``. ``size`` tells how many a complete split has, by default what the list has.
    """

    def __init__(
        self,
        listing: Callable[[str, bool], Sequence[Utterance]],
        name: str,
        doc: str | None = None,
        split: str = "test",
        size: Callable[[str], int] | None = None,
    ) -> None:
        self.listing = listing
        self.size = size or (lambda split: len(listing(split, False)))
        self.__name__, self.__doc__ = name, doc
        self._default = split

    def choose(self, split: str, index: Index = None, *, strict: bool = True) -> list[tuple[int, Utterance]]:
        """The utterances that an index chooses, with their positions in the split, in its order.

        Raises :class:`OptionError` for an index that chooses nothing, and what the list raises.
        """
        utterances = self._listed(split, strict)
        return [(i, utterances[i]) for i in selection.positions(index, len(utterances))]

    def _listed(self, split: str, strict: bool) -> list[Utterance]:
        """The list, as what a function of somebody else's gives has to be. Raises :class:`OptionError` if it is not."""
        try:
            found = list(self.listing(split, strict))
        except ArmoryMdnfError:
            raise
        except Exception as error:  # of somebody else's code
            raise OptionError(
                f"{self.__name__}: cannot list the utterances of {quoted(split)}: {cause(error)}"
            ) from error
        if not found:
            raise OptionError(f"{self.__name__}: expected utterances in split {quoted(split)}, found none")
        for i, utterance in enumerate(found):
            if wrong := _unlike_an_utterance(utterance):
                raise OptionError(f"{self.__name__}: utterance {i} of {quoted(split)}: expected {wrong}")
        return found

    def __call__(
        self,
        split: str | None = None,
        epochs: int = 1,
        batch_size: int = 1,
        framework: str = "numpy",
        shuffle_files: bool = False,
        index: Index = None,
        class_ids: object = None,
        preprocessing_fn: Callable[[NDArray], NDArray] | None = canonical_preprocessing,
    ) -> Any:
        """Armory's generator of the utterances.

        ``split``: the configuration's ``eval_split``. ``index``: which utterances, a list of positions or a slice such
        as ``"[:12]"``; ``--index`` overrides it. All of them if left out.

        Yields x as float32 in [-1, 1) of shape (1, T), or a 1-D object array of (T,) for a batch size above 1, and y as
        an array of transcripts. Raises :class:`OptionError` for what the data cannot give, :class:`BundleError` for a
        file that is missing or damaged.
        """
        split = self._default if split is None else split
        _refuse(split, epochs, batch_size, framework, shuffle_files, class_ids)
        chosen = [utterance for _, utterance in self.choose(split, index)]
        if wrong := next((utterance for utterance in chosen if utterance.problem), None):
            raise BundleError(f"{wrong.id}: {wrong.problem}")
        from armory.data.datasets import ArmoryDataGenerator

        return ArmoryDataGenerator(
            _repeated(chosen, epochs),
            size=len(chosen),
            epochs=epochs,
            batch_size=batch_size,
            preprocessing_fn=preprocessing_fn,
            variable_length=batch_size > 1,
            context=_context(),
        )


def dataset(listing: Callable[[str], Sequence[Utterance]]) -> Dataset:
    """Make a function from the name of a split to its utterances a dataset that configurations can name.

    The function lists every utterance of the split, always in the same order, and raises :class:`OptionError` for a
    split that it does not know. Audio is read from ``Utterance.path``: one channel at 16 kHz.
    """
    return Dataset(lambda split, strict: listing(split), listing.__name__, listing.__doc__)


bundled = Dataset(
    lambda split, strict: selection.bundled_split(split, strict=strict),
    "bundled",
    """Utterances of a bundled split: human, human_dev, synthetic or synthetic_dev; or of the path of recordings of your
    own, in a layout of :mod:`armory_mdnf.data.own`.""",
    "human",
    selection.split_size,
)
recordings = Dataset(
    lambda path, strict: load_own(path, strict=strict),
    "recordings",
    """Recordings of your own: ``split`` is the path of a folder or a list, in a layout of
    :mod:`armory_mdnf.data.own`.""",
)
librispeech = Dataset(
    lambda split, strict: openslr.load_split(split, strict=strict),
    "librispeech",
    """Utterances of a LibriSpeech split from a local folder in OpenSLR's layout; nothing is downloaded.

    ``split``: dev-clean, dev-other, test-clean, test-other, train-clean-100, train-clean-360 or train-other-500, in
    this spelling or Armory's (``test_clean``). The order is fixed, and the first N utterances are a sample of the
    split's speakers: see :mod:`armory_mdnf.data.librispeech`, which also says where the folder is. Armory's own route
    through TensorFlow is ``armory.data.datasets.librispeech``.""",
    "test_clean",
    selection.split_size,
)


def _unlike_an_utterance(found: Any) -> str:
    """What is expected of an utterance that a list has, where it is another; empty where nothing is wrong with it."""
    if not isinstance(found, Utterance):
        return f"an armory_mdnf.data.bundled.Utterance, found {quoted(found)}"
    if found.problem:
        return ""
    if not isinstance(found.path, Path):
        return f"path as a pathlib.Path, found {quoted(found.path)}"
    if not isinstance(found.transcript, str) or not found.transcript.split():
        return f"transcript as text with words, found {quoted(found.transcript)}"
    if not POSITIVE.holds(found.duration_s):
        return f"duration_s as a number above 0, found {quoted(found.duration_s)}"
    return ""


def _context() -> Any:
    from armory.data.datasets import AudioContext

    return AudioContext(x_shape=(None,), sample_rate=SAMPLE_RATE_HZ)


def _refuse(
    split: object, epochs: int, batch_size: int, framework: str, shuffle_files: bool, class_ids: object
) -> None:
    if not isinstance(split, str):
        raise OptionError(f"expected split to be the name of one, got {quoted(split)}")
    check_option("epochs", epochs, count(1))
    check_option("batch_size", batch_size, count(1))
    if framework != "numpy":
        raise OptionError(f"expected framework 'numpy', got {quoted(framework)}: the corpora come as arrays only")
    if shuffle_files:
        raise OptionError("the splits are evaluated in their order: shuffle_files and fitting are not for them")
    if class_ids is not None:
        raise OptionError(f"expected no class_ids, got {quoted(class_ids)}: transcripts have no classes")


def _repeated(utterances: Sequence[Utterance], epochs: int) -> Iterator[tuple[NDArray[np.int64], NDArray]]:
    for _ in range(epochs):
        for utterance in utterances:
            yield _samples(utterance)[None], np.array([utterance.transcript])


def _samples(utterance: Utterance) -> NDArray[np.int64]:
    """The 16-bit samples as integers, which Armory's preprocessing asks for. Exact: FLAC holds 16 bits."""
    x = selection.read_samples(utterance)
    return np.rint(x.astype(np.float64) * QUANTIZATION).astype(np.int64)
