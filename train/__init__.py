"""Stage B: train a LoRA language model and a fusion module on cached vectors, and ask it."""
