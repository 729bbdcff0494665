"""The recommender: everything that runs in one process and knows no Ray."""
