"""Audio in and out: files, checks, ragged batches, noise streams, mel recipes, resampling."""
