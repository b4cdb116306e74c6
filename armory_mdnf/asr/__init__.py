"""Speech recognition: alphabet, features, DeepSpeech2, checkpoints, CTC, and the ART estimator."""
