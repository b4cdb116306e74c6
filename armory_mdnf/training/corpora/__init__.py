"""What the corpora are built of: prompts, sentences, voices, splits, and the files that they become."""
