"""What the checks are called, for the command line too, which loads none of them."""

from __future__ import annotations

FORMAT = "armory-mdnf audit 1"
"""What a file of findings says that it is."""

NAMES = ("gradient", "draws", "published", "convergence", "budget", "adaptive", "steps", "headline")
"""The checks in their order."""
