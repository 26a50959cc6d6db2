"""Prompts: templates, chat formats, tokenised titles."""
