"""A URL -> a database, tuned and at this program's version; its failures are sentences."""

from __future__ import annotations

import errno
import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Lock, local
from typing import Any

import sqlalchemy as sql
from sqlalchemy import Connection
from sqlalchemy.util import immutabledict

from lmapps.errors import DatabaseFailed, DatabaseFull, InputError, StorageError
from lmapps.paths import home
from lmapps.sentence import Sentence
from lmapps.server.store.sqlite import READS, WAITS, make_private, sqlite_engine, sqlite_looking

LOG = logging.getLogger("lmapps.server")
LOG.addHandler(logging.NullHandler())  # a command tells it as its own failure
BUSY_SECONDS = 8
"""How long SQLite waits for another process that writes, and PostgreSQL for an answer."""
SHORT_SECONDS = 0.5
"""How long it waits where the last one has waited in vain: else all wait behind each other."""
NONE: immutabledict[str, Any] = immutabledict()
VERSION = sql.table("alembic_version", sql.column("version_num"))
"""Where Alembic keeps which version the tables are of."""


class Database:
    """One database. Every method may be called from any thread.

    url   where: any SQLAlchemy URL; '' = an SQLite file in the data folder. SQLite and PostgreSQL
          are tested.
    as_it_is  to be looked at alone: it is not made, not brought up to date, not written into

    Raises `StorageError` where it cannot be opened, read or written, and where a newer lmapps
    wrote it.
    """

    def __init__(self, url: str = "", *, as_it_is: bool = False) -> None:
        self.place = _place(url)
        """Where it is, without what a URL has of secrets, for a sentence."""
        self._failed = {"reading": "", "writing": ""}
        self._turn = Lock()
        with self._reported("writing"):
            self.url = located(url)
            if as_it_is:
                self._writer = self._reader = self._hurried = _looking(self.url)
                return
            if not url:
                home().mkdir(parents=True, exist_ok=True)
            make_private(self.url)
            self._writer = _engine(self.url, lambda: bool(self.trouble))
            self._reader = self._writer.execution_options(**{READS: True})
            self._hurried = self._writer.execution_options(**{WAITS: SHORT_SECONDS})
            from lmapps.server.store.migrate import migrate

            migrate(self._reader, self._writer, self.place)

    @property
    def is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    @property
    def file(self) -> Path | None:
        """Where it is a file."""
        return Path(str(self.url.database)) if self.is_sqlite else None

    @property
    def trouble(self) -> str:
        """Why it could not be read or written the last time, as a sentence; '' = it could."""
        return self._failed["writing"] or self._failed["reading"]

    def check(self) -> None:
        """Find out whether it can be used, and whether a `trouble` is over. Writes nothing as long
        as there is none; waits for nobody for long."""
        with suppress(StorageError), self._reported("reading"), self._reader.connect() as reader:
            reader.execute(sql.select(VERSION.c.version_num)).all()
        with suppress(StorageError), self._reported("writing"), self._hurried.begin() as writer:
            if self._failed["writing"]:  # one that is full, too, can be opened for writing
                same = {VERSION.c.version_num: VERSION.c.version_num}
                writer.execute(VERSION.update().values(same))

    def close(self) -> None:
        self._writer.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that changes nothing."""
        with self._reported("reading"), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A connection whose changes are kept together at the end, or not at all."""
        going: _InOneGo | None = getattr(_HERE, "going", None)
        with going.on(self) if going else self._writing() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        writer = self._hurried if self._failed["writing"] else self._writer
        with self._reported("writing"), self._in_turn(), writer.begin() as connection:
            yield connection

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """One after the other where the database is a file. SQLite itself lets whoever has to wait
        rest for ever longer before looking again: threads of this process need not."""
        if not self.is_sqlite:
            yield
            return
        if not self._turn.acquire(timeout=BUSY_SECONDS):
            raise TimeoutError("others have been writing for too long")
        try:
            yield
        finally:
            self._turn.release()

    @contextmanager
    def _reported(self, use: str) -> Iterator[None]:
        """A database's failure becomes a sentence, without the password in its URL."""
        try:
            yield
            self._failed[use] = ""
        except ImportError as error:
            package = "'lmapps[postgres]'" if error.name == "psycopg" else repr(error.name)
            raise StorageError(
                f"the database {self.place} cannot be used (the package {error.name} is not "
                f"installed): run `pip install {package}`"
            ) from None
        except (sql.exc.SQLAlchemyError, OSError) as error:
            reason = str(getattr(error, "orig", None) or error).splitlines()[0]
            told = (
                f"the database {self.place} cannot be used ({reason}): check that it is there, can "
                "be written, and has room"
            )
            if _is_its_own(error):
                if not self.trouble:
                    LOG.error("the database failed", extra={"fields": {"reason": told}})
                self._failed[use] = told
            raise (DatabaseFull if _is_full(error) else DatabaseFailed)(told) from None


@contextmanager
def in_one_go() -> Iterator[None]:
    """All that this thread writes within is kept together at the end, or not at all."""
    with ExitStack() as stack:
        _HERE.going = _InOneGo(stack)
        try:
            yield
        finally:
            del _HERE.going


class _InOneGo:
    """The connections of one thread that are open until its end."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._open: dict[Database, Connection] = {}

    @contextmanager
    def on(self, database: Database) -> Iterator[Connection]:
        if database not in self._open:
            self._open[database] = self._stack.enter_context(database._writing())
        with database._reported("writing"):
            yield self._open[database]


_HERE = local()
"""Of each thread, what it writes in one go, if it does."""


def _is_its_own(error: Exception) -> bool:
    """Whether the database does not work, rather than one statement."""
    return isinstance(error, OSError | sql.exc.OperationalError | sql.exc.TimeoutError)


def _is_full(error: Exception) -> bool:
    """Whether the disk is full, of the database or of this machine."""
    cause: Any = getattr(error, "orig", None) or error
    code = getattr(cause, "sqlite_errorcode", None)
    return (
        getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        or (code is not None and code & 0xFF == sqlite3.SQLITE_FULL)
        or getattr(cause, "sqlstate", None) == "53100"
    )


def check_owner(owner: str) -> None:
    """Raises for nobody's: what they keep would be everybody's who is not known."""
    if not owner:
        raise InputError(Sentence("this page does not know yet whose it is: load it again"))


def _place(url: str) -> str:
    if not url:
        return str(home())
    try:
        parts = sql.make_url(url)
    except sql.exc.ArgumentError:
        return "that --database names"
    return parts._replace(username=None, password=None, query=NONE).render_as_string()


def located(url: str) -> sql.URL:
    """Where a database is: '' = lmapps.db in the data folder; our driver for PostgreSQL."""
    if not url:
        return sql.URL.create("sqlite", database=str(home() / "lmapps.db"))
    chosen = sql.make_url(url)
    is_postgres = chosen.drivername in ("postgres", "postgresql")
    return chosen.set(drivername="postgresql+psycopg") if is_postgres else chosen


def _engine(url: sql.URL, has_failed: Callable[[], bool]) -> sql.Engine:
    """The driver's, which waits for nobody for ever where it is one of ours."""
    if url.get_backend_name() == "sqlite":
        return sqlite_engine(url, BUSY_SECONDS)
    if url.get_backend_name() == "postgresql":
        from lmapps.server.store.postgres import postgres_engine

        return postgres_engine(url, BUSY_SECONDS, has_failed)
    return sql.create_engine(url, pool_pre_ping=True)


def _looking(url: sql.URL) -> sql.Engine:
    """One that leaves everything as it is."""
    if url.get_backend_name() == "sqlite" and not url.query:
        return sqlite_looking(url)
    return _engine(url, lambda: False)
