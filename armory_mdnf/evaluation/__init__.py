"""What an evaluation found: reading Armory's results, keeping them, and printing them."""
