"""One request in the order it happens: history, index, ranker, penalties, list."""
