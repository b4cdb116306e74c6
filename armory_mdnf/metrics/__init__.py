"""Word error rates and perturbation sizes: plain numbers in, plain numbers out, no files."""
