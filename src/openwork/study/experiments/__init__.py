"""Functions that return runs."""
