"""The published results, and ours beside them."""
