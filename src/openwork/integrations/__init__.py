"""Callbacks for the training loops of other libraries; each callback needs its extra."""
