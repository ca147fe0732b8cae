"""Pruning a trained model block after block, each on the outputs of the pruned ones before it."""
