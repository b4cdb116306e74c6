"""Recipes: corpus, recognisers, vocoders, resynthesis, noise curve, noise level."""
