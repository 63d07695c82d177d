"""Models, training and comparison -> their tabs."""
