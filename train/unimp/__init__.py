"""UniMP: one model for recommendation, search, selection, preference and explanation, on stored picture tokens."""
