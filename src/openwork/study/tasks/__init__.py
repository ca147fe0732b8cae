"""Benchmarks: a model, its data, its loss and its metric; one file each."""
