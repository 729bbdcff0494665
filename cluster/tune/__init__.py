"""Ray Tune around the training loop of rec.models.training."""
