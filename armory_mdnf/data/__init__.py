"""Evaluation data: the bundled corpora and LibriSpeech."""
