"""Callbacks for training loops that belong to somebody else; each needs its own extra."""
