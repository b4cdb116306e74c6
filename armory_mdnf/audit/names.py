"""What the checks are called, for the command line too, which loads none of them."""

from __future__ import annotations

NAMES = ("gradient", "draws", "published", "convergence", "budget", "adaptive", "steps", "headline")
"""The checks in their order."""
