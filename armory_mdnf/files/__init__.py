"""Files that outlive a process: what they were made of, and that they are whole."""
