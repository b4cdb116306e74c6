"""Characters and their CTC classes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from armory_mdnf.errors import OptionError, TranscriptError, quoted

ENGLISH = "_'ABCDEFGHIJKLMNOPQRSTUVWXYZ "


@dataclass(frozen=True)
class Alphabet:
    """The characters that a recogniser writes, one per class; the first is the CTC blank.

    The default is that of deepspeech.pytorch's English models: ``_'A-Z`` and the space.
    """

    labels: str = ENGLISH
    _index: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not all(isinstance(c, str) and len(c) == 1 for c in self.labels):
            raise OptionError(f"expected an alphabet of single characters, got {quoted(self.labels)}")
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise OptionError(f"expected an alphabet of at least two different characters, got {self.labels!r}")
        object.__setattr__(self, "_index", {c: i for i, c in enumerate(self.labels) if i})

    @property
    def blank(self) -> int:
        """The class of the CTC blank."""
        return 0

    def __len__(self) -> int:
        return len(self.labels)

    def encode(self, text: str) -> list[int]:
        """Classes of a transcript's characters. Raises :class:`TranscriptError` for one that is not in the alphabet."""
        if not isinstance(text, str):
            raise TranscriptError(f"expected a transcript as a string, got {type(text).__name__}")
        try:
            return [self._index[c] for c in text]
        except KeyError as error:
            c = error.args[0]
            hint = "; transcripts are upper case" if c.upper() in self._index else ""
            hint = "; it is the CTC blank" if c == self.labels[0] else hint
            raise TranscriptError(
                f"character {c!r} of {text!r} is not in the alphabet {self.labels[1:]!r}{hint}"
            ) from None

    def decode(self, classes: Iterable[int]) -> str:
        """Text of a sequence of classes, blanks left out."""
        return "".join(self.labels[c] for c in classes if c)
