"""Who may come in, what is theirs, and how much of the engine they may have."""
