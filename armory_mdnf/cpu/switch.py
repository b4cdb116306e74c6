"""The switch of all that is done for a CPU's sake."""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

from armory_mdnf.errors import OptionError, choices

VARIABLE = "ARMORY_MDNF_CPU"
WAYS = ("fast", "plain")


def way() -> str:
    """``fast``, or ``plain`` where the environment variable ``ARMORY_MDNF_CPU`` says so: a CPU then computes as a GPU.

    Raises :class:`OptionError` for any other value.
    """
    found = os.environ.get(VARIABLE) or WAYS[0]
    if found not in WAYS:
        raise OptionError(choices(found, WAYS, VARIABLE))
    return found


def fast(x: Tensor) -> bool:
    """Whether what is computed of ``x`` goes the ways that are made for a CPU; they know one precision at a time."""
    return x.device.type == "cpu" and way() == "fast" and not torch.is_autocast_enabled("cpu")


def frozen(module: nn.Module) -> bool:
    """Whether none of the weights asks for a gradient."""
    return not any(p.requires_grad for p in module.parameters())
