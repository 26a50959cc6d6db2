"""FAISS search over item vectors: the k nearest items of the whole catalogue."""
