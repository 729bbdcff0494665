"""Text to embeddings, and the fingerprint of the space they live in."""
