"""Frozen multiple-choice questions: drawing, negative sampling, files and import."""
