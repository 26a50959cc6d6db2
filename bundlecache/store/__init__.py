"""The embedding store: Lance tables, checksums, memory-mapped matrices."""
