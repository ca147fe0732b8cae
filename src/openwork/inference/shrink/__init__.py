"""Removes dead units for good: a smaller dense model with the same outputs."""
