"""What the files in the folder of a run are called. Its own name tells runs apart, whose files are all called so."""

ABOUT = "run.json"
"""What is run."""
LINES = "utterances.jsonl"
"""A line per utterance that is done."""
NATIVE = "results.json"
"""The results, when all are."""
PARTIAL = "partial.json"
"""What a sweep has so far of a cell that is not done."""
ALL = (ABOUT, LINES, NATIVE, PARTIAL)
