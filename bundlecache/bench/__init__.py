"""Metrics, comparisons of methods on frozen questions, leakage probes and ablation tables."""
