"""How the embedded base was made: random questions, a tokenizer, and a few minutes of one core."""
