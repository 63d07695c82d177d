"""A plugin's signature -> its form, its reply and the runs before."""
