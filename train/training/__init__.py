"""The training loop: stages, sampler, logging, resume."""
