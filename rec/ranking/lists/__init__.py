"""From scored candidates to a list: penalties, variety, guarantees, exploration."""
