"""A model and held-out data in, scores out."""
