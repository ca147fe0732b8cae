"""Runs, what identifies them, and lists of them."""
