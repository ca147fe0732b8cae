"""The training loop and its checkpoints; knows no technique by name."""
