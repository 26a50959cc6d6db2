"""Items, bundles and interactions: reading, checking, splitting and filtering them."""
