"""A machine, its software and a person's data -> what is found there, and what to do about it."""
