"""The one place that imports parallel-wavegan.

Its 0.6.1 imports ``scipy.signal.kaiser``, which SciPy moved to ``scipy.signal.windows``.
"""

from __future__ import annotations

import scipy.signal
import scipy.signal.windows

if not hasattr(scipy.signal, "kaiser"):
    scipy.signal.kaiser = scipy.signal.windows.kaiser

from parallel_wavegan.layers.pqmf import PQMF
from parallel_wavegan.layers.residual_stack import ResidualStack
from parallel_wavegan.models.hifigan import HiFiGANGenerator
from parallel_wavegan.models.melgan import MelGANGenerator, MelGANMultiScaleDiscriminator
from parallel_wavegan.models.parallel_wavegan import ParallelWaveGANGenerator

__all__ = [
    "PQMF",
    "HiFiGANGenerator",
    "MelGANGenerator",
    "MelGANMultiScaleDiscriminator",
    "ParallelWaveGANGenerator",
    "ResidualStack",
]
