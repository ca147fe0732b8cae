"""Sparse files: valid safetensors files in which each tensor takes the smallest of several lossless codes."""
