"""transformers without its progress bars and its advice to programmers, for as long as it works for this package."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_inside = 0
_restore: Callable[[], None]


@contextmanager
def quiet() -> Iterator[None]:
    """Show errors of transformers alone, and none of its bars, until the last block that runs has ended.

    Blocks of several threads may overlap: the first one stores what there was, the last one restores it. Whoever sets
    ``TRANSFORMERS_VERBOSITY`` or ``HF_HUB_DISABLE_PROGRESS_BARS`` has chosen, and is obeyed. Nothing else is silenced.
    """
    global _inside, _restore
    with _lock:
        if not _inside:
            _restore = _silence()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _restore()


def _silence() -> Callable[[], None]:
    """Silence transformers. Returns what undoes it."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
    from transformers.utils import logging as transformers_logging

    logger = transformers_logging.get_logger("transformers")
    level = logger.level
    bars = transformers_logging.is_progress_bar_enabled() and "HF_HUB_DISABLE_PROGRESS_BARS" not in os.environ
    hub_has_none = are_progress_bars_disabled()
    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        logger.setLevel(max(level, logging.ERROR))
    if bars:
        transformers_logging.disable_progress_bar()

    def restore() -> None:
        logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()
            if hub_has_none:  # transformers switches the hub's bars on with its own
                disable_progress_bars()

    return restore
