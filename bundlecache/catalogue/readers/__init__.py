"""Readers: a public data layout becomes a workspace."""
