"""A PostgreSQL that stands still or is gone: whoever asks is told in time, and it is used again."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import psycopg
import pytest
import sqlalchemy as sql

from lmapps.discovery import discover
from lmapps.errors import DatabaseFailed
from lmapps.server import health
from lmapps.server.accounts.door import Door
from lmapps.server.accounts.users import Users
from lmapps.server.store import aside as store_aside
from lmapps.server.store import database as databases
from lmapps.server.store.aside import aside
from lmapps.server.store.database import Database
from lmapps.server.store.postgres import Impatient, take_time


@pytest.fixture
def database(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
) -> Iterator[Database]:
    assert databases.BUSY_SECONDS < store_aside.ANSWER_SECONDS <= 10
    monkeypatch.setattr(databases, "BUSY_SECONDS", 1)
    made = Database(postgres_url)
    Users(made).add("ann", "correct horse")
    yield made
    made.close()


@contextmanager
def standing_still(postgres: str, database: Database) -> Iterator[None]:
    """Its processes are stopped; the system goes on holding the connections, and takes new ones."""
    ours = "SELECT pid FROM pg_stat_activity WHERE datname = %s"
    with psycopg.connect(postgres.format("postgres")) as other:
        stopped = [row[0] for row in other.execute(ours, [database.url.database])]
    main = Path(postgres.partition("host=")[2], "data", "postmaster.pid").read_text().split()[0]
    for process in (int(main), *stopped):
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in (int(main), *stopped):
            os.kill(process, signal.SIGCONT)


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def test_whoever_shows_a_key_is_told_in_time(
    postgres: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_aside, "ANSWER_SECONDS", 0.5)
    users = Users(database)
    asks = {"authorization": f"Bearer {users.add_key('ann', 'laptop')}"}
    door = httpx.ASGITransport(Door(nothing, users, None, admins=False))

    async def ask(client: httpx.AsyncClient) -> httpx.Response:
        return await client.get("/v1/models", headers=asks)

    async def many() -> None:
        async with httpx.AsyncClient(transport=door, base_url="http://lm") as client:
            assert (await ask(client)).status_code == 204
            with standing_still(postgres, database):
                began = time.monotonic()
                answers = await asyncio.gather(*(ask(client) for _ in range(100)))
                assert time.monotonic() - began < 2
            assert {answer.status_code for answer in answers} == {503}
            assert answers[0].headers["retry-after"] == "5"

    asyncio.run(many())


def test_whoever_waits_for_the_store_is_told_in_time(
    postgres: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_aside, "ANSWER_SECONDS", 0.5)
    with (
        standing_still(postgres, database),
        pytest.raises(DatabaseFailed, match=r"has not answered for 0\.5 seconds"),
    ):
        asyncio.run(aside(database.check))


def test_a_thread_that_asks_gives_up_too_and_the_database_is_used_again(
    postgres: str, database: Database, wait_until: Callable[..., None]
) -> None:
    def look() -> None:
        with database.reading() as connection:
            connection.execute(sql.text("SELECT 1"))

    look()
    with standing_still(postgres, database):
        asking = threading.Thread(target=database.check)
        asking.start()
        asking.join(20)
        assert not asking.is_alive() and "cannot be used" in database.trouble
    wait_until(lambda: database.check() is None and not database.trouble)
    look()


def test_a_statement_that_goes_on_for_ever_is_ended_unless_it_may(database: Database) -> None:
    slow = sql.text("SELECT pg_sleep(1.5)")
    timeout = pytest.raises(DatabaseFailed, match="statement timeout")
    with timeout, database.reading() as connection:
        connection.execute(slow)
    with database._writer.connect() as connection:
        raw = connection.connection.driver_connection
        assert isinstance(raw, Impatient)
        take_time(connection)  # as where tables are brought up to date
        connection.execute(slow)
    assert raw.closed


def test_one_that_is_gone_is_told_by_health_and_on_every_page_until_it_is_back(
    serve: Callable[..., Any], postgres: str, postgres_url: str, wait_until: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def ann(store: Any) -> None:
        Users(store.database).add("ann", "correct horse")

    monkeypatch.setattr(health, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(health, "LITTLE_BYTES", 0)
    monkeypatch.setattr(health, "NO_BYTES", 0)
    name = str(sql.make_url(postgres_url).database)
    with (
        serve(discover(), 0.0, postgres_url, prepare=ann) as running,
        httpx.Client(base_url=running.url, timeout=30) as client,
        psycopg.connect(postgres.format("postgres"), autocommit=True) as other,
    ):
        form = {"name": "ann", "password": "correct horse"}
        assert client.post("/login", data=form).status_code == 303
        assert client.get("/health").status_code == 200
        other.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        ends = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
        other.execute(ends, [name])
        for asks in (client, httpx):
            answer = asks.get(f"{running.url}/health")
            assert answer.status_code == 503 and answer.json() == {"status": "failed"}
        line = unquote(client.get("/plugins/version").headers["x-lmapps-trouble"])
        assert line.startswith("Nothing can be kept at the moment")
        page = client.get("/", headers={"accept": "text/html"})
        assert page.status_code == 503 and "The database does not work" in page.text
        other.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())
        wait_until(lambda: client.get("/health").status_code == 200)
        assert "x-lmapps-trouble" not in client.get("/plugins/version").headers
        assert client.get("/", headers={"accept": "text/html"}).status_code == 200
