"""Mel-domain defences for speech recognition, as an Armory plugin and as a plain library.

Nothing heavy is imported here: ``import armory_mdnf`` costs neither torch nor Armory.
"""

__version__ = "0.1.0"
