"""The name of an open model -> a checkpoint folder: `from lmapps.model.pull.pull import pull`."""
