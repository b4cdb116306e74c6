"""A CTC recogniser that a bundle holds: features, a network, and the configuration of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from armory_mdnf.asr.alphabet import Alphabet
from armory_mdnf.asr.contract import CTCRecognizer
from armory_mdnf.errors import OptionError, refuse_unknown
from armory_mdnf.options import check_options

Self = TypeVar("Self", bound="BundledConfig")


class BundledConfig:
    """Base of the dataclasses that say what a recogniser of some kind is like; their fields are plain values.

    Raises :class:`OptionError` for a value that its field refuses.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __post_init__(self) -> None:
        check_options(self)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return asdict(self)

    @classmethod
    def from_dict(cls: type[Self], values: Mapping[str, Any]) -> Self:
        """Inverse of :meth:`as_dict`. Raises :class:`OptionError` for an unknown key."""
        refuse_unknown(values, cls.__dataclass_fields__, cls.__name__)
        return cls(**values)


class BundledRecognizer(CTCRecognizer):
    """Features and network, one after the other.

    ``features``: audio (N, T), lengths (N,) -> spectrogram (N, 1, bins, F), frames (N,). ``network``: those -> logits
    (N, F', classes), frames' (N,). A kind of bundle names itself and the classes of its configuration and network.
    """

    kind: ClassVar[str]
    config_class: ClassVar[type[BundledConfig]]
    network_class: ClassVar[type[nn.Module]]
    alphabet: Alphabet
    config: Any
    features: nn.Module
    network: nn.Module

    @property
    def head(self) -> nn.Module:
        """The layer onto the characters."""
        raise NotImplementedError

    def layers_above(self, name: str) -> int:
        """How many layers of a stack are above the weight of that name in the network; 0 where there is no stack."""
        return 0

    def set_dropout(self, share: float) -> None:
        """Leave a share out wherever the network has a dropout, in training. Raises :class:`OptionError` if nowhere."""
        found = [module for module in self.network.modules() if isinstance(module, nn.Dropout)]
        if not found:
            raise OptionError(f"dropout: expected 0 for a {self.kind}, which has no such layers, got {share}")
        for module in found:
            module.p = share

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        self.check_lengths(lengths)
        return self.network(*self.features(x, lengths))
