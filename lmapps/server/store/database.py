"""A URL -> a database, tuned and at this program's version; its failures are sentences."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Lock, local
from typing import Any

import sqlalchemy as sql
from sqlalchemy import Connection

from lmapps.errors import InputError, StorageError
from lmapps.paths import home
from lmapps.sentence import Sentence

BUSY_SECONDS = 10
"""How long SQLite waits for another process that writes, and how long a connection may take."""
CONNECTIONS = 16
"""That one process keeps; to PostgreSQL, under load, it takes as many again."""
SHORT_SECONDS = 0.5
"""How long it waits where the last one has waited in vain: else all wait behind each other."""
READS, WAITS = "lmapps_reads", "lmapps_waits"
"""Execution options: of a connection that only reads, and how many seconds one waits."""
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
        self.place = url.rpartition("@")[2] or str(home())
        """The URL without its password, for a sentence."""
        self._failed = {"reading": "", "writing": ""}
        self._turn = Lock()
        with self._reported("writing"):
            self.url = located(url)
            if as_it_is:
                self._writer = self._reader = self._hurried = _looking(self.url)
                return
            if not url:
                home().mkdir(parents=True, exist_ok=True)
            _make_private(self.url)
            self._writer = _engine(self.url)
            self._reader = self._writer.execution_options(**{READS: True})
            self._hurried = self._writer.execution_options(**{WAITS: SHORT_SECONDS})
            from lmapps.server.store.migrate import migrate

            migrate(self._reader, self._writer, self.place)

    @property
    def is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

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
            told = Sentence(
                "the database {place} cannot be used ({reason}): check that it is there, can be "
                "written, and has room", place=self.place, reason=reason,
            )  # fmt: skip
            if _is_its_own(error):
                self._failed[use] = told
            raise StorageError(told) from None


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


def check_owner(owner: str) -> None:
    """Raises for nobody's: what they keep would be everybody's who is not known."""
    if not owner:
        raise InputError(Sentence("this page does not know yet whose it is: load it again"))


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
        wait = {"timeout": BUSY_SECONDS}
        # As many as are asked for at once: each is tuned, and none is thrown away.
        engine = sql.create_engine(url, connect_args=wait, pool_size=CONNECTIONS)
        sql.event.listen(engine, "connect", _tune_sqlite)
        sql.event.listen(engine, "begin", _begin_sqlite)
        if url.database and url.database != ":memory:" and not url.query:
            _watch(engine, Path(url.database))
        return engine
    if url.get_backend_name() == "postgresql":  # one that was started again is found again
        wait = {"connect_timeout": BUSY_SECONDS}
        many = {"pool_size": CONNECTIONS, "max_overflow": CONNECTIONS}
        return sql.create_engine(url, pool_pre_ping=True, connect_args=wait, **many)
    return sql.create_engine(url, pool_pre_ping=True)


def _looking(url: sql.URL) -> sql.Engine:
    """An engine that leaves an SQLite file, and what lies beside it, as they are."""
    file = Path(url.database or "")
    if url.get_backend_name() != "sqlite" or url.query:
        return _engine(url)
    # Where nobody has it open SQLite would make the files beside it, only to read.
    how = {"mode": "ro", "uri": "true"}
    how |= {} if Path(f"{file}-shm").exists() else {"immutable": "1"}
    return sql.create_engine(url.set(database=file.absolute().as_uri(), query=how))


def _tune_sqlite(connection: Any, _: Any) -> None:
    """Readers beside a writer (WAL). What was committed survives a kill of the process, and the
    file is never torn; a power cut may take the last moments (NORMAL)."""
    connection.isolation_level = None  # Python's own idea of when a transaction begins
    connection.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")
    _into_wal(connection)
    for pragma in ("synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _into_wal(connection: Any) -> None:
    """Servers that open a new file in the same moment refuse each other this step at once, without
    the wait that SQLite makes everywhere else."""
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
        time.sleep(0.01)


def _begin_sqlite(connection: Connection) -> None:
    """Whoever will write waits for its turn at the beginning: one who has read already and then
    wants to write is refused at once where another wrote in between."""
    options = connection.get_execution_options()
    wait = int(1000 * options.get(WAITS, BUSY_SECONDS))
    if not options.get(READS, False) and connection.info.get(WAITS) != wait:
        connection.exec_driver_sql(f"PRAGMA busy_timeout={wait}")
        connection.info[WAITS] = wait
    connection.exec_driver_sql("BEGIN" if options.get(READS, False) else "BEGIN IMMEDIATE")


def _watch(engine: sql.Engine, file: Path) -> None:
    """Notice that the file was deleted, moved or exchanged while it is open: SQLite would go on
    writing into the old one, which is nowhere any more, make an empty one in its place, or put
    what it has not written yet into another one."""
    opened = list[Identity]()

    def look(*_: Any) -> None:
        found = _identity(file)
        if found and not opened:
            opened.append(found)
        if opened and found is None:
            raise sqlite3.OperationalError("its file is not there any more")
        if opened and found != opened[0]:
            raise sqlite3.OperationalError(
                "another file stands in its place: start the server again"
            )

    def compare(*_: Any) -> None:
        if opened != [_identity(file)]:
            raise sql.exc.DisconnectionError  # the pool connects anew, where `look` says why

    sql.event.listen(engine, "do_connect", look)
    sql.event.listen(engine, "checkout", compare)


Identity = tuple[int, int]


def _identity(file: Path) -> Identity | None:
    """Which file it is, whatever it is called."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
