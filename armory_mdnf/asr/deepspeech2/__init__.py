"""DeepSpeech2 (Amodei et al. 2016): spectrogram, network, and the checkpoints of deepspeech.pytorch."""
