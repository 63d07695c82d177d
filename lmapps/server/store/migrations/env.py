"""Alembic runs this file: it works on the connection that `migrate.py` has opened."""

from __future__ import annotations

from alembic import context

from lmapps.server.store.tables import METADATA

# SQLite cannot change a column: "batch" copies the table.
connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=METADATA, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
