"""Ray Data: cleaning, sequences, embedding and batch recommendation."""
