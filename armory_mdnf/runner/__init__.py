"""Run Armory's configurations without Armory: batched, resumable, on CPU or GPU."""
