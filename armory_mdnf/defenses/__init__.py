"""Input defences: mel resynthesis, mel domain noise flooding, randomised smoothing."""

from __future__ import annotations

from armory_mdnf.defenses.base import WaveformDefense
from armory_mdnf.defenses.mdnf import MDNF
from armory_mdnf.defenses.mel_resynth import MelResynth
from armory_mdnf.defenses.randomized_smoothing import RandomizedSmoothing

__all__ = ["MDNF", "MelResynth", "RandomizedSmoothing", "WaveformDefense"]
