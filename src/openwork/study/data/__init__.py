"""Data sets for image classification and translation."""
