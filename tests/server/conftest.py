"""The databases that the tests of the store run on: SQLite, and a PostgreSQL of our own; and the
addresses of an application."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lmapps.server.store.store import Store
from tests.conftest import brought, missing

ACCOUNT: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []}
"""PostgreSQL does not run as root."""


@pytest.fixture(scope="session")
def postgres_programs() -> Path:
    """The folder of PostgreSQL's programs, which Debian keeps out of the path."""
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    found = max(versions, key=lambda program: int(program.parts[4]), default=None)
    found = found or shutil.which("initdb")
    if not found:
        missing("PostgreSQL is not installed: `apt-get install postgresql` for these tests")
    return Path(found).parent


@pytest.fixture(scope="session")
def postgres(postgres_programs: Path) -> Iterator[str]:
    """The URL of a PostgreSQL server on a socket in a temporary folder, without its database."""
    brought("psycopg")
    account = ACCOUNT if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="lmapps-pg-"))
    if account:
        shutil.chown(folder, "postgres", "postgres")

    def call(program: str, *words: str) -> None:
        run = [str(postgres_programs / program), *words]
        log: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "cwd": folder}
        subprocess.run(run, check=True, timeout=60, **log, **account)

    data = str(folder / "data")
    options = f"-k {folder} -c listen_addresses= -c fsync=off -c max_connections=60"
    try:
        call("initdb", "-D", data, "-U", "lmapps", "-A", "trust", "-E", "UTF8", "--no-sync")
        call("pg_ctl", "start", "-D", data, "-w", "-o", options, "-l", str(folder / "log"))
        yield f"postgresql://lmapps@/{{}}?host={folder}"
        call("pg_ctl", "stop", "-D", data, "-m", "immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def new_database(postgres: str) -> str:
    """The URL of a new, empty database on that server."""
    import psycopg

    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(postgres.format("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return postgres.format(name)


@pytest.fixture
def postgres_url(postgres: str) -> str:
    """An empty database of a test's own."""
    return new_database(postgres)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, of either kind in turn."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path / 'test.db'}"


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """Conversations in such a database."""
    store = Store(database_url)
    yield store
    store.close()


@pytest.fixture(scope="session")
def addresses_of() -> Callable[[Any], set[str]]:
    """`addresses_of(app)` -> "GET /v1/models" and so on, but for what is mounted in it."""

    def found(app: Any) -> set[str]:
        all = set[str]()
        for route in app.routes:
            if router := getattr(route, "original_router", None):  # FastAPI keeps it as it was
                all |= found(router)
            else:
                all |= {f"{method} {route.path}" for method in getattr(route, "methods", ())}
        return all

    return found
