"""A corpus and a model in, a checkpoint and a report out."""
