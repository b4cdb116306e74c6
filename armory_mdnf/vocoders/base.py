"""The contract of a vocoder: a mel recipe and a way back from its log mel to audio."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from armory_mdnf.audio import checks, ragged
from armory_mdnf.audio.mel import LogMel, MelRecipe
from armory_mdnf.cpu.switch import fast
from armory_mdnf.errors import AudioError, OptionError

# Residual blocks of a generator; published ones have some tens. Each takes about a millisecond to be described.
MAX_BLOCKS = 1024


def check_blocks(found: int) -> None:
    """Raise :class:`OptionError` for a generator of more residual blocks than any has: it may come from any file."""
    if found > MAX_BLOCKS:
        raise OptionError(f"expected a generator of at most {MAX_BLOCKS} residual blocks, got one of {found}")


class Vocoder(nn.Module):
    """Log mel to audio, with the front-end that it was trained with.

    Subclasses name their ``kind`` (the bundle kind), whether they need noise and the fewest frames they take, and have
    :meth:`generate`, the generator's own forward. Those in bundles build their generator and tell what it takes and
    gives. Utterances of several lengths go one after another; a :meth:`generate_ragged` may take them at once.
    """

    kind: ClassVar[str]
    needs_noise: ClassVar[bool]

    def __init__(
        self,
        recipe: MelRecipe,
        generator: nn.Module,
        generator_config: dict[str, Any],
        mean: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.recipe = recipe
        self.front_end = LogMel(recipe, mean, scale)
        self.generator = generator
        self.generator_config = generator_config

    @staticmethod
    def build_generator(config: dict[str, Any]) -> nn.Module:
        """parallel-wavegan's generator with these arguments, fresh and without weight norm."""
        raise NotImplementedError

    @staticmethod
    def layout(config: Mapping[str, Any]) -> tuple[int, int]:
        """Mel bins and samples per frame of the generator with these arguments.

        Raises :class:`OptionError` for an argument that it does not have.
        """
        raise NotImplementedError

    @property
    def sample_rate_hz(self) -> int:
        return self.recipe.sample_rate_hz

    @property
    def min_frames(self) -> int:
        """Fewest frames that the generator takes."""
        raise NotImplementedError

    @property
    def min_samples(self) -> int:
        """Shortest utterance, in samples at the recipe's rate, that can be analysed and synthesised."""
        recipe = self.recipe
        for_frames = (self.min_frames - 1) * recipe.hop + recipe.n_fft - 2 * recipe.padding
        return max(recipe.min_samples, for_frames)

    def mel(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log mel as the generator expects it, normalised.

        Shape: (N, T), (N,) -> (N, n_mels, F), (N,) frames; zero beyond an utterance's frames.
        Raises :class:`AudioError` naming the minimum if an utterance is shorter than :attr:`min_samples`.
        """
        ragged.check_shortest(lengths, self.min_samples, self.sample_rate_hz, "this vocoder")
        return self.front_end(x, lengths)

    def synthesize(self, log_mel: Tensor, frames: Tensor, noise: Tensor | None = None) -> Tensor:
        """Audio of each log mel as if it were alone; differentiable with respect to ``log_mel`` and ``noise``.

        Shape: (N, n_mels, F), (N,), (N, 1, F * hop) -> (N, F * hop); zero beyond ``frames * hop``.
        ``noise`` is white, of standard deviation 1, and given exactly if :attr:`needs_noise`.
        Raises :class:`AudioError` for other shapes, too few frames, and noise that is missing or not wanted.
        """
        n, width = log_mel.shape[0], log_mel.shape[-1]
        if log_mel.dim() != 3 or log_mel.shape[1] != self.recipe.n_mels or frames.shape != (n,):
            raise AudioError(
                f"expected a log mel (N, {self.recipe.n_mels}, F) and frames (N,), got shapes "
                f"{tuple(log_mel.shape)} and {tuple(frames.shape)}"
            )
        if int(frames.min()) < self.min_frames or int(frames.max()) > width:
            raise AudioError(
                f"expected between {self.min_frames} and {width} frames per utterance, got "
                f"{int(frames.min())} to {int(frames.max())}"
            )
        if self.needs_noise != (noise is not None):
            wanted = "needs noise (N, 1, F * hop), got none" if self.needs_noise else "takes no noise, got some"
            raise AudioError(f"vocoder of kind {self.kind!r} {wanted}")
        if noise is not None and noise.shape != (n, 1, width * self.recipe.hop):
            raise AudioError(f"expected noise of shape {(n, 1, width * self.recipe.hop)}, got {tuple(noise.shape)}")
        if n > 1 and fast(log_mel):
            # A CPU's caches hold the activations of one utterance, not of several: side by side they take 1.5 times.
            return self._one_by_one(log_mel, frames, noise)
        if ragged.is_uniform(frames, width):
            return self.generate(log_mel, noise)[:, 0]
        wave = self.generate_ragged(log_mel, frames, noise)[:, 0]
        return ragged.zero_beyond(wave, frames * self.recipe.hop)

    def generate(self, log_mel: Tensor, noise: Tensor | None) -> Tensor:
        """Utterances as long as the batch. Shape: (N, n_mels, F), noise (N, 1, F * hop) or None -> (N, 1, F * hop)."""
        raise NotImplementedError

    def generate_ragged(self, log_mel: Tensor, frames: Tensor, noise: Tensor | None) -> Tensor:
        """Utterances of several lengths, each as if alone, to rounding; whatever it likes beyond their ends.

        Shape: (N, n_mels, F), (N,), noise (N, 1, F * hop) or None -> (N, 1, F * hop).
        """
        return self._one_by_one(log_mel, frames, noise)[:, None]

    def _one_by_one(self, log_mel: Tensor, frames: Tensor, noise: Tensor | None) -> Tensor:
        hop, waves = self.recipe.hop, []
        for i, f in enumerate(frames.tolist()):
            own = None if noise is None else noise[i : i + 1, :, : f * hop]
            wave = self.generate(log_mel[i : i + 1, :, :f], own)
            checks.check_kind(wave, (1, 1, f * hop), f"vocoder {type(self).__name__}")
            waves.append(wave[0, 0])
        joined = nn.utils.rnn.pad_sequence(waves, batch_first=True)
        return nn.functional.pad(joined, (0, log_mel.shape[-1] * hop - joined.shape[1]))
