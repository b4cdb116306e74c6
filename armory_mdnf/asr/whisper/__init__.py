"""Whisper's encoder (Radford et al. 2022), and a CTC recogniser made of it."""
