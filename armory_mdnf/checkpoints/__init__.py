"""Other projects' checkpoints from the command line: what they hold, their conversion, where they are published."""
