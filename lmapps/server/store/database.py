"""A URL -> a database, tuned and at this program's version; its failures are sentences."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy import Connection

from lmapps.errors import InputError, StorageError
from lmapps.paths import home

BUSY_SECONDS = 10
"""How long SQLite waits for another process that writes, and how long a connection may take."""
CONNECTIONS = 16
"""To PostgreSQL, that one process keeps; under load it takes as many again."""
READS = "lmapps_reads"
"""The execution option of a connection that only reads."""


class Database:
    """One database. Every method may be called from any thread.

    url   where: any SQLAlchemy URL; '' = an SQLite file in the data folder. SQLite and PostgreSQL
          are tested.

    Raises `StorageError` where it cannot be opened, read or written, and where a newer lmapps
    wrote it.
    """

    def __init__(self, url: str = "") -> None:
        self.place = url.rpartition("@")[2] or str(home())
        """The URL without its password, for a sentence."""
        with self._reported():
            self.url = located(url)
            if not url:
                home().mkdir(parents=True, exist_ok=True)
            _make_private(self.url)
            self._writer = _engine(self.url)
            self._reader = self._writer.execution_options(**{READS: True})
            from lmapps.server.store.migrate import migrate

            migrate(self._reader, self._writer, self.place)

    @property
    def is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    def close(self) -> None:
        self._writer.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that changes nothing."""
        with self._reported(), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A connection whose changes are kept together at the end, or not at all."""
        with self._reported(), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """A database's failure becomes a sentence, without the password in its URL."""
        try:
            yield
        except ImportError as error:
            package = "'lmapps[postgres]'" if error.name == "psycopg" else repr(error.name)
            raise StorageError(
                f"the database {self.place} cannot be used (the package {error.name} is not "
                f"installed): run `pip install {package}`"
            ) from None
        except (sql.exc.SQLAlchemyError, OSError) as error:
            reason = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise StorageError(
                f"the database {self.place} cannot be used ({reason}): check that it is there, "
                "can be written, and has room"
            ) from None


def check_owner(owner: str) -> None:
    """Raises for nobody's: what they keep would be everybody's who is not known."""
    if not owner:
        raise InputError("this page does not know yet whose it is: load it again")


def located(url: str) -> sql.URL:
    """Where a database is: '' = lmapps.db in the data folder; our driver for PostgreSQL."""
    if not url:
        return sql.URL.create("sqlite", database=str(home() / "lmapps.db"))
    chosen = sql.make_url(url)
    is_postgres = chosen.drivername in ("postgres", "postgresql")
    return chosen.set(drivername="postgresql+psycopg") if is_postgres else chosen


def _make_private(url: sql.URL) -> None:
    """A new SQLite file is its owner's alone: it holds conversations and hashes of passwords."""
    file = Path(url.database or ":memory:")
    if url.get_backend_name() == "sqlite" and not url.query and file.name != ":memory:":
        with suppress(FileExistsError, FileNotFoundError):  # SQLite says better what is missing
            os.close(os.open(file, os.O_CREAT | os.O_EXCL, 0o600))


def _engine(url: sql.URL) -> sql.Engine:
    """The driver's engine: transactions in SQLite begin when they are said to."""
    if url.get_backend_name() == "sqlite":
        engine = sql.create_engine(url, connect_args={"timeout": BUSY_SECONDS})
        sql.event.listen(engine, "connect", _tune_sqlite)
        sql.event.listen(engine, "begin", _begin_sqlite)
        return engine
    if url.get_backend_name() == "postgresql":  # one that was started again is found again
        wait = {"connect_timeout": BUSY_SECONDS}
        many = {"pool_size": CONNECTIONS, "max_overflow": CONNECTIONS}
        return sql.create_engine(url, pool_pre_ping=True, connect_args=wait, **many)
    return sql.create_engine(url, pool_pre_ping=True)


def _tune_sqlite(connection: Any, _: Any) -> None:
    """Readers beside a writer (WAL). What was committed survives a kill of the process, and the
    file is never torn; a power cut may take the last moments (NORMAL)."""
    connection.isolation_level = None  # Python's own idea of when a transaction begins
    connection.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    """Whoever will write waits for its turn at the beginning: one who has read already and then
    wants to write is refused at once where another wrote in between."""
    reads = connection.get_execution_options().get(READS, False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
