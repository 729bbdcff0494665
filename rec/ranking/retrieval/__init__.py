"""Where candidates come from: the index, the other sources, and the filters inside them."""
