"""Ray Train around the training loop of rec.models.training."""
