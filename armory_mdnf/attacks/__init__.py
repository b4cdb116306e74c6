"""Attacks on speech recognisers: PGD (l2, l-infinity, SNR; EOT) and Carlini and Wagner's, on ragged batches."""

from armory_mdnf.attacks.evasion import PGD, CarliniWagner, RandomNoise

__all__ = ["PGD", "CarliniWagner", "RandomNoise"]
