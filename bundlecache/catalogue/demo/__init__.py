"""The demo catalogue: a gift shop, generated from a seed."""
