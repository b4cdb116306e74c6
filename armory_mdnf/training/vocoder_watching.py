"""What a vocoder's training is watched by: intelligibility of held-out speech, and the noise sensitivity."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from armory_mdnf.audio.mel import LogMel
from armory_mdnf.audio.noise import stream
from armory_mdnf.errors import OptionError, quoted
from armory_mdnf.training.vocoder_data import find_recordings, read_all
from armory_mdnf.training.vocoder_generators import RECIPE


def generate(kind: str, generator: nn.Module, log_mel: Tensor, noise: Tensor) -> Tensor:
    """Shape: (N, n_mels, F), (N, 1, F * hop) -> (N, F * hop)."""
    wave = generator(log_mel) if kind == "melgan" else generator(noise, log_mel)
    return wave[:, 0].float()


def stoi_scores(kind: str, generator: nn.Module, front_end: LogMel, utterances: list[Tensor]) -> list[float]:
    """Short-time objective intelligibility (Taal et al. 2011) of each resynthesised utterance."""
    from pystoi import stoi

    scores = []
    device = next(generator.parameters()).device
    with torch.no_grad():
        for i, x in enumerate(utterances):
            log_mel, frames = front_end(x[None].to(device), torch.tensor([x.shape[0]], device=device))
            noise = torch.randn(1, 1, int(frames) * RECIPE.hop, generator=stream(0, i)).to(device)
            wave = generate(kind, generator, log_mel, noise)[0, : x.shape[0]]
            scores.append(float(stoi(x.numpy(), wave.cpu().numpy(), RECIPE.sample_rate_hz)))
    return scores


@dataclass(frozen=True)
class Watching:
    """What a run reports while it goes on; it does not change what is learned.

    Raises :class:`OptionError` if it would be evaluated between the lines of the log.
    """

    evaluate: Sequence[str] = ()
    evaluate_stride: int = 4
    evaluate_limit: int = 10
    evaluate_every: int = 400
    log_every: int = 50
    sensitivity: str | None = None

    def __post_init__(self) -> None:
        if (self.evaluate or self.sensitivity) and self.evaluate_every % self.log_every:
            found = f"--evaluate-every {self.evaluate_every}"
            raise OptionError(f"{found}: expected a multiple of --log-every {self.log_every}, whose lines tell of it")

    def read(self) -> dict[str, list[Tensor]]:
        """The utterances that are evaluated, by the names of their folders or manifests.

        Raises :class:`OptionError` for one that is given twice.
        """
        found = {}
        for name, text in zip(_names(self.evaluate), self.evaluate, strict=True):
            paths = find_recordings(Path(text))[:: self.evaluate_stride][: self.evaluate_limit]
            found[name] = read_all(paths, RECIPE.sample_rate_hz)
        return found


def _names(texts: Sequence[str]) -> list[str]:
    """The last parts of paths, as few as tell them apart."""
    whole = [Path(os.path.abspath(text)).parts for text in texts]
    if twice := next((text for i, text in enumerate(texts) if whole[i] in whole[:i]), None):
        raise OptionError(f"--evaluate: {quoted(twice)} is there twice")
    for size in range(1, max(map(len, whole), default=0) + 1):
        names = ["/".join(parts[-size:]).removesuffix(".jsonl") for parts in whole]
        if len(set(names)) == len(names):
            return names
    return list(texts)


def check_stoi() -> None:
    """Refuse an evaluation that cannot be made. Raises :class:`OptionError`."""
    try:
        import pystoi  # noqa: F401
    except ImportError as error:
        raise OptionError("--evaluate needs pystoi: pip install pystoi") from error
