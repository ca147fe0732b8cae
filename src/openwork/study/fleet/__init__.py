"""Runs that differ in numbers alone, trained as one model whose tensors are stacked."""
