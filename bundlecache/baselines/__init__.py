"""Simple methods that rank options, on the same questions as every model."""
