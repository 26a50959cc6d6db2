"""Scoring frozen questions and completing bundles with a trained model."""
