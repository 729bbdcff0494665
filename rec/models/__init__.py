"""User towers over item embeddings, baselines, losses and the training loop."""
