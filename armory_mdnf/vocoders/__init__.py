"""Vocoders: log mel to audio, each with the mel recipe that it was trained with."""

from armory_mdnf.vocoders.base import Vocoder
from armory_mdnf.vocoders.making import KINDS, make_vocoder
from armory_mdnf.vocoders.storage import load_vocoder, save_vocoder, vocoder_file

__all__ = ["KINDS", "Vocoder", "load_vocoder", "make_vocoder", "save_vocoder", "vocoder_file"]
