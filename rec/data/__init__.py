"""Events, items, and how they become clean sequences."""
