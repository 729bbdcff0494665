"""User towers: what reads a sequence of item embeddings, one architecture a file."""
