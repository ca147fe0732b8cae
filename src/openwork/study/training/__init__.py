"""The training loop, which knows no technique by name."""
