"""Upper bounds of numbers that a user gives: larger ones are typing errors, or cannot be computed in any memory."""

from __future__ import annotations

MAX_OPTIONS = 1000
"""Options of one question."""
MAX_K = 10_000
"""Candidates that are listed per bundle."""
MAX_PERMUTATIONS = 1000
"""Orders of the options in which one question is answered; each costs one forward pass."""
MAX_SEED = 2**32 - 1
"""Seeds: whole numbers of 32 bits."""
