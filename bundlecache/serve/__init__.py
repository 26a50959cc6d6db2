"""The server: completions of a workspace by HTTP, and a page to build bundles by hand."""
