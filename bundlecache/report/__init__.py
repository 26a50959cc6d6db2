"""Self-contained HTML pages about runs and benchmarks."""
