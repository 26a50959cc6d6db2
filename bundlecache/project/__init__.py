"""The library: one object per workspace and per run; the command line and the server call nothing else."""
