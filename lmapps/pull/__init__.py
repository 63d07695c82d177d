"""The name of an open model -> a checkpoint folder: `from lmapps.pull.pull import pull`."""
