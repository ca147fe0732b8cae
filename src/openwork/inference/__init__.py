"""What zeros buy when a model is used: faster layers, and smaller dense models."""
