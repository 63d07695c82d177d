"""The URL of a PostgreSQL -> an engine whose connections give up a server that does not answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any

import psycopg
import sqlalchemy as sql

CONNECTIONS = 16
"""That one process keeps; under load it takes as many again."""
SHORT_SECONDS = 2.0
"""How long one waits where the last one has waited in vain; for a connection the driver waits no
less."""
GONE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
"""After so many seconds a machine that says nothing at all, not even to the system, is gone."""


class Impatient(psycopg.Connection[Any]):
    """A connection that is closed where an answer takes too long: the driver itself waits as long
    as the other side's system holds the connection, whatever has become of the server there.

    patience  gives the seconds that one answer may take
    """

    patience: Callable[[], float] | None = None

    def wait(self, gen: Any, *rest: Any, **named: Any) -> Any:
        if self.patience is None:
            return super().wait(gen, *rest, **named)
        seconds = self.patience()
        try:
            return super().wait(_until(time.monotonic() + seconds, gen), *rest, **named)
        except TimeoutError:
            self.close()
            told = f"it has not answered for {seconds:g} seconds"
            raise psycopg.OperationalError(told) from None


def postgres_engine(url: sql.URL, seconds: float, has_failed: Callable[[], bool]) -> sql.Engine:
    """seconds     that a statement may take, or a wait for one of the connections
    has_failed  whether the last one has waited in vain
    """
    many = {"pool_size": CONNECTIONS, "max_overflow": CONNECTIONS, "pool_timeout": seconds}
    wait = {**GONE, "tcp_user_timeout": round(1000 * seconds)}
    # One that was started again is found again.
    engine = sql.create_engine(url, pool_pre_ping=True, connect_args=wait, **many)

    def patience() -> float:
        return SHORT_SECONDS if has_failed() else seconds + 1  # who can answer says why it does not

    def connect(_dialect: Any, _record: Any, words: Any, named: Any) -> Impatient:
        named = {"connect_timeout": round(patience()), **named}
        made = Impatient.connect(*words, **named)
        made.patience = patience
        made.execute(f"SET statement_timeout = {round(1000 * seconds)}".encode())
        made.commit()
        return made

    if url.get_driver_name() == "psycopg":
        sql.event.listen(engine, "do_connect", connect)
    return engine


def take_time(connection: sql.Connection) -> None:
    """From now on its statements may take as long as they do; it is closed at its end."""
    raw: Any = connection.connection.driver_connection
    raw.patience = None
    connection.detach()
    connection.exec_driver_sql("SET statement_timeout = 0")
    connection.commit()


def _until(end: float, steps: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """The driver's steps, each of which wants to know whether the other side has sent something.
    Raises `TimeoutError` where that was not so until `end`."""
    try:
        wanted = next(steps)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > end:
                raise TimeoutError
            wanted = steps.send(ready)
    except StopIteration as last:
        return last.value
