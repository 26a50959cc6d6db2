"""Stage A: the frozen encoders (image, audio, text, graph) and their registry."""
