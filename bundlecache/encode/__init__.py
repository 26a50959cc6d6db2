"""The encode loop: scan items, decode, run frozen encoders, write vectors to the store."""
