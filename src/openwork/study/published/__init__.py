"""The published results, to show beside openwork's."""
