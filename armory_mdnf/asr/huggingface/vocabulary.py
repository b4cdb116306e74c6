"""The classes of a Hugging Face CTC model and the text that they write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from armory_mdnf.errors import BundleError, TranscriptError, quoted


@dataclass(frozen=True)
class TokenVocabulary:
    """Tokens by class: characters, a word delimiter that stands for the space, special tokens that write nothing.

    Transcripts are upper case here, as in LibriSpeech, also where the tokens are lower case.
    """

    tokens: Mapping[str, int]
    blank: int
    word_delimiter: str = "|"
    special: frozenset[str] = frozenset()
    _text: dict[int, str] = field(init=False, repr=False, compare=False)
    _classes: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(set(self.tokens.values())) != len(self.tokens) or self.blank not in self.tokens.values():
            raise BundleError(f"expected a class of its own for every token, and one for the blank, {self.blank}")
        written = {token: i for token, i in self.tokens.items() if token not in self.special and i != self.blank}
        long = (token for token in written if len(token) > 1 and token != self.word_delimiter)
        if several := sorted(token for token in long if token[0] + token[-1] not in ("<>", "[]")):  # these are marks
            raise BundleError(
                f"expected tokens of one character, found {quoted(several[0])} (and {len(several) - 1} more): a text "
                "can be spelt in several ways with these"
            )
        text = {i: " " if token == self.word_delimiter else token for token, i in written.items()}
        object.__setattr__(self, "_text", {i: token.upper() for i, token in text.items()})
        classes = {token: i for i, token in text.items() if len(token) == 1}
        for token, i in list(classes.items()):
            if len(token.upper()) == 1:
                classes.setdefault(token.upper(), i)
        object.__setattr__(self, "_classes", classes)

    def __len__(self) -> int:
        return max(self.tokens.values()) + 1

    def encode(self, text: str) -> list[int]:
        """Classes of a transcript's characters. Raises :class:`TranscriptError` for one that has no class."""
        if not isinstance(text, str):
            raise TranscriptError(f"expected a transcript as a string, got {type(text).__name__}")
        missing = next((c for c in text if c not in self._classes), None)
        if missing is not None:
            known = "".join(sorted(self._classes))
            raise TranscriptError(f"character {missing!r} of {quoted(text)} is not in the vocabulary {quoted(known)}")
        return [self._classes[c] for c in text]

    def decode(self, classes: Iterable[int]) -> str:
        """Text of classes without repeats; blanks and special tokens write nothing, spaces at the ends go."""
        return " ".join("".join(self._text.get(c, "") for c in classes).split())
