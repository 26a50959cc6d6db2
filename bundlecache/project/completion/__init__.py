"""Complete bundles: a few at once, a long list, a file."""
