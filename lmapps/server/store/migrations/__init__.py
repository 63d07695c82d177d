"""The steps from the tables of one release to those of the next, as Alembic takes them."""
