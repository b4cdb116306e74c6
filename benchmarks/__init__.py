"""How fast the attacks are, measured on the machine that they run on: ``make bench``."""
