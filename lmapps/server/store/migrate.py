"""A database of any age -> the same with the tables of this program, through Alembic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sql
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from lmapps.errors import StorageError

FOLDER = Path(__file__).parent / "migrations"
LOCK = 7_205_759_403_792_793
"""PostgreSQL's number for "somebody migrates lmapps": any that others do not take."""


def migrate(reader: sql.Engine, writer: sql.Engine, place: str) -> None:
    """Bring the tables to this program's version, once, however many servers start together.

    Raises `StorageError` where a newer lmapps wrote the database: nothing is changed then.
    """
    scripts = ScriptDirectory(str(FOLDER))
    with reader.connect() as connection:
        if _version(connection, scripts, place) == scripts.get_current_head():
            return
    with writer.connect() as connection:
        if connection.dialect.driver == "psycopg":
            from lmapps.server.store.postgres import take_time

            take_time(connection)
        _without_foreign_keys(connection, True)  # a table that is copied is dropped for a moment
        try:
            with connection.begin():
                if connection.dialect.name == "postgresql":
                    connection.execute(sql.select(sql.func.pg_advisory_xact_lock(LOCK)))
                if _version(connection, scripts, place) != scripts.get_current_head():
                    _upgrade(connection)
        finally:
            _without_foreign_keys(connection, False)


def is_older(connection: Connection, place: str) -> bool:
    """Whether `migrate` would change it. Raises `StorageError` where a newer lmapps wrote it."""
    scripts = ScriptDirectory(str(FOLDER))
    return _version(connection, scripts, place) != scripts.get_current_head()


def _version(connection: Connection, scripts: ScriptDirectory, place: str) -> str | None:
    """The revision that a database is at. One of before there were revisions is at None, as an
    empty one: the first revision leaves what is there."""
    found = MigrationContext.configure(connection).get_current_revision()
    known = [script.revision for script in scripts.walk_revisions()]
    if found is not None and found not in known:
        raise StorageError(
            f"the database {place} was written by a newer lmapps (its tables are at {found}, this "
            f"program knows them up to {known[0]}): start that version, or name another database"
        )
    return found


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _without_foreign_keys(connection: Connection, off: bool) -> None:
    """SQLite changes this outside of transactions only."""
    if connection.dialect.name == "sqlite":
        raw: Any = connection.connection.driver_connection
        raw.execute(f"PRAGMA foreign_keys={'OFF' if off else 'ON'}")
