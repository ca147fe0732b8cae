"""Masks: which weights are zero, and the optimizer hooks that keep them so."""
