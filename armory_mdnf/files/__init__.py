"""Files that outlive a process: how they are written and read, what they were made of, and that they are whole."""
