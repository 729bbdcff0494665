"""Ray Serve: one deployment a file, each wraps one step of rec.ranking."""
