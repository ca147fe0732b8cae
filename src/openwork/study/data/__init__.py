"""Data sets for image classification, whole in memory as tensors."""
