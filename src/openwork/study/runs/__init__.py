"""One training: what identifies it, and how it is executed, resumed and claimed."""
