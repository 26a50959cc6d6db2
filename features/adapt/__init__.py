"""Adaptation of an encoder to the catalogue's own pictures and titles."""
