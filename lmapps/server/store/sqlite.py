"""A file of SQLite's -> an engine, tuned for several processes and for kills."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy import Connection

CONNECTIONS = 16
"""That one process keeps."""
READS, WAITS = "lmapps_reads", "lmapps_waits"
"""Execution options: of a connection that only reads, and how many seconds one waits."""


def sqlite_engine(url: sql.URL, seconds: float) -> sql.Engine:
    """Its transactions begin when they are said to, and wait so long for those of others."""
    # As many as are asked for at once: each is tuned, and none is thrown away.
    engine = sql.create_engine(url, connect_args={"timeout": seconds}, pool_size=CONNECTIONS)
    sql.event.listen(engine, "connect", partial(_tune, seconds))
    sql.event.listen(engine, "begin", partial(_begin, seconds))
    if url.database and url.database != ":memory:" and not url.query:
        _watch(engine, Path(url.database))
    return engine


def sqlite_looking(url: sql.URL) -> sql.Engine:
    """One that leaves the file, and what lies beside it, as they are."""
    file = Path(url.database or "")
    # Where nobody has it open SQLite would make the files beside it, only to read.
    how = {"mode": "ro", "uri": "true"}
    how |= {} if Path(f"{file}-shm").exists() else {"immutable": "1"}
    return sql.create_engine(url.set(database=file.absolute().as_uri(), query=how))


def make_private(url: sql.URL) -> None:
    """A new SQLite file is its owner's alone: it holds conversations and hashes of passwords."""
    file = Path(url.database or ":memory:")
    if url.get_backend_name() == "sqlite" and not url.query and file.name != ":memory:":
        with suppress(FileExistsError, FileNotFoundError):  # SQLite says better what is missing
            os.close(os.open(file, os.O_CREAT | os.O_EXCL, 0o600))


def _tune(seconds: float, connection: Any, _: Any) -> None:
    """Readers beside a writer (WAL). What was committed survives a kill of the process, and the
    file is never torn; a power cut may take the last moments (NORMAL)."""
    connection.isolation_level = None  # Python's own idea of when a transaction begins
    connection.execute(f"PRAGMA busy_timeout={round(1000 * seconds)}")
    _into_wal(connection, seconds)
    for pragma in ("synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _into_wal(connection: Any, seconds: float) -> None:
    """Servers that open a new file in the same moment refuse each other this step at once, without
    the wait that SQLite makes everywhere else."""
    until = time.monotonic() + seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
        time.sleep(0.01)


def _begin(seconds: float, connection: Connection) -> None:
    """Whoever will write waits for its turn at the beginning: one who has read already and then
    wants to write is refused at once where another wrote in between."""
    options = connection.get_execution_options()
    wait = int(1000 * options.get(WAITS, seconds))
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
