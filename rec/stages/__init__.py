"""The stages of the loop: each reads artifacts, calls the rooms below, writes an artifact."""
