"""Training recipes: the settings, their types and bounds, and TOML files of them."""
