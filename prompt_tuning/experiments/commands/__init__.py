"""The command lines of experiments: `scripts/` and the console start them."""
