"""Weights computed from what is learned: random variables with a penalty."""
