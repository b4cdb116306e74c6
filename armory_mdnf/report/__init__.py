"""What recorded runs say, for a person to look at: a page that needs nothing else, and figures."""
