"""A connection -> a request that is let in or refused, has a name, is logged, and ends in time."""
