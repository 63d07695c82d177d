"""A database of any age is brought up to date once, and survives kills and several servers."""

from __future__ import annotations

import errno
import os
import random
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from lmapps.__main__ import main
from lmapps.errors import StorageError
from lmapps.server.store.backup import back_up, restore
from lmapps.server.store.database import Database, in_one_go
from lmapps.server.store.store import Store
from lmapps.server.store.tables import METADATA
from tests.server.conftest import new_database

RELEASED = """
CREATE TABLE conversations (
    id VARCHAR(32) NOT NULL, owner VARCHAR(64) NOT NULL, plugin VARCHAR(200) NOT NULL,
    title TEXT NOT NULL, leaf VARCHAR(32), updated FLOAT NOT NULL, deleted FLOAT,
    PRIMARY KEY (id)
);
CREATE INDEX conversations_of_owner ON conversations (owner, plugin, updated);
CREATE TABLE turns (
    number INTEGER NOT NULL, id VARCHAR(32) NOT NULL, conversation VARCHAR(32) NOT NULL,
    parent VARCHAR(32), role VARCHAR(16) NOT NULL, content TEXT NOT NULL,
    author VARCHAR(16) NOT NULL, finish VARCHAR(16), rating INTEGER, created FLOAT NOT NULL,
    PRIMARY KEY (number), UNIQUE (id), FOREIGN KEY(conversation) REFERENCES conversations (id)
);
CREATE INDEX ix_turns_conversation ON turns (conversation);
INSERT INTO conversations VALUES ('c', 'ann', 'chat', 'Old', 't', 1.0, NULL);
INSERT INTO turns VALUES (1, 't', 'c', NULL, 'user', 'of before', 'person', 'stop', NULL, 1.0);
"""
"""A database as the first release left it."""


def version(database: Database) -> list[str]:
    with database.reading() as connection:
        return list(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalars())


def older(url: str, revision: str) -> None:
    """Make a database as a program of that revision made it."""
    upgrade = command.upgrade
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "upgrade", lambda config, _: upgrade(config, revision))
        Database(url).close()


def test_the_migrations_make_the_tables_that_the_program_uses(database_url: str) -> None:
    database = Database(database_url)
    with database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    assert len(version(database)) == 1
    database.close()


def test_a_database_of_the_first_release_is_brought_up_to_date_with_all_that_is_in_it(
    tmp_path: Path,
) -> None:
    with sqlite3.connect(tmp_path / "old.db") as connection:
        connection.executescript(RELEASED)
    connection.close()
    for _ in range(2):  # it stays so when it is opened again
        store = Store(f"sqlite:///{tmp_path / 'old.db'}")
        assert [turn.content for turn in store.load("ann", "c").path()] == ["of before"]
        with store.database.reading() as reading:
            assert compare_metadata(MigrationContext.configure(reading), METADATA) == []
        store.close()


def test_a_database_of_a_newer_program_is_left_alone(database_url: str) -> None:
    database = Database(database_url)
    with database.writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StorageError, match=r"newer lmapps .*at 9999, .*up to 0"):
        Database(database_url)
    assert version(database) == ["9999"]
    database.close()


def test_servers_that_start_together_migrate_once(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrades, upgrade = list[str](), command.upgrade
    monkeypatch.setattr(
        command, "upgrade", lambda *words: upgrades.append(words[-1]) or upgrade(*words)
    )
    start, failed = threading.Barrier(6), list[BaseException]()

    def open_one() -> None:
        start.wait()
        try:
            Database(database_url).close()
        except BaseException as error:
            failed.append(error)

    servers = [threading.Thread(target=open_one) for _ in range(6)]
    for server in servers:
        server.start()
    for server in servers:
        server.join()
    assert failed == [] and upgrades == ["head"]


def test_a_migration_that_fails_leaves_nothing_behind(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade = command.upgrade

    def fails(*words: Any) -> None:
        upgrade(*words)
        raise sql.exc.OperationalError("", None, Exception("the disk is full"))

    monkeypatch.setattr(command, "upgrade", fails)
    with pytest.raises(StorageError, match="the disk is full"):
        Database(database_url)
    monkeypatch.undo()
    engine = sql.create_engine(database_url.replace("postgresql:", "postgresql+psycopg:"))
    assert sql.inspect(engine).get_table_names() == []
    engine.dispose()
    Database(database_url).close()


def test_sqlite_is_tuned_for_several_processes_and_for_kills(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'test.db'}")
    with database.reading() as connection:
        tuned = {"journal_mode": "wal", "synchronous": 1, "foreign_keys": 1, "busy_timeout": 8000}
        for pragma, value in tuned.items():
            assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar() == value, pragma


def test_writers_that_read_first_wait_for_each_other(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    Store(url).begin("ann", "chat", "0")

    def count() -> None:
        database = Database(url)
        for _ in range(20):
            with database.writing() as connection:
                seen = connection.exec_driver_sql("SELECT max(title) FROM conversations").scalar()
                connection.exec_driver_sql(
                    "UPDATE conversations SET title = ?", (f"{int(seen) + 1:04}",)
                )
        database.close()

    counting = [threading.Thread(target=count) for _ in range(4)]
    for thread in counting:
        thread.start()
    for thread in counting:
        thread.join()
    with Database(url).reading() as connection:
        assert connection.exec_driver_sql("SELECT title FROM conversations").scalar() == "0080"


def test_a_database_that_cannot_be_used_is_a_sentence_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot be used .*unable to open"):
        Store(f"sqlite:///{tmp_path / 'no' / 'such' / 'folder.db'}")
    for scheme in ("postgresql", "postgres", "postgresql+psycopg"):
        with pytest.raises(StorageError) as raised:
            Store(f"{scheme}://me:secret@127.0.0.1:1/none")
        assert "127.0.0.1:1/none" in str(raised.value) and "secret" not in str(raised.value)
        with pytest.raises(StorageError) as raised:
            Store(f"{scheme}://me@127.0.0.1:1/none?password=sec%40ret&sslmode=disable")
        told = str(raised.value)
        assert "127.0.0.1:1/none" in told and "sec" not in told and "ret" not in told
    with pytest.raises(StorageError, match=r"pip install 'no_such_driver'|Can't load plugin"):
        Store("postgresql+no_such_driver://localhost/x")
    (tmp_path / "text.db").write_text("this is no database, " * 99)
    with pytest.raises(StorageError, match="not a database"):
        Store(f"sqlite:///{tmp_path / 'text.db'}")


def test_two_servers_on_one_database_see_each_others_turns(database_url: str) -> None:
    one, two = Store(database_url), Store(database_url)
    made = one.begin("ann", "chat")
    one.add("ann", made, None, "user", "Hello", "person")
    assert [turn.content for turn in two.load("ann", made).path()] == ["Hello"]
    two.rename("ann", made, "By the other")
    assert one.list("ann", "chat")[0].title == "By the other"
    one.close()
    two.close()


def test_what_a_thread_writes_in_one_go_is_one_transaction(database_url: str) -> None:
    store, commits = Store(database_url), list[int]()
    sql.event.listen(store.database._writer, "commit", lambda _: commits.append(1))
    made = store.begin("ann", "chat")
    turns = [store.add("ann", made, None, "assistant", "", "model").id for _ in range(3)]

    def contents() -> list[str]:
        return [turn.content for turn in store.load("ann", made).turns]

    commits.clear()
    with in_one_go():
        for turn in turns:
            store.grow(turn, "grown")
        assert contents() == [""] * 3, "nobody else sees it before its end"
    assert len(commits) == 1 and contents() == ["grown"] * 3
    with pytest.raises(ZeroDivisionError), in_one_go():
        store.grow(turns[0], "lost")
        raise ZeroDivisionError
    assert contents() == ["grown"] * 3
    store.grow(turns[0], "alone")
    assert contents() == ["alone", "grown", "grown"]
    store.close()


WRITER = """
import asyncio, os, sys, time
from lmapps.server.page.live import View
from lmapps.server.page.chat.saved import KeptTurn, Place, saved
from lmapps.server.store.made import Made
from lmapps.server.store.store import Store

def say(line):
    os.write(1, f"{line}\\n".encode())  # in one piece, or not at all

async def reply():
    for number in range(10**9):
        yield View(text=f"{number} " * 50)
        await asyncio.sleep(0.005)

async def talk(store):
    made = store.begin("ann", "chat")
    question = store.add("ann", made, None, "user", "go on", "person")
    keeper = KeptTurn(store, Place("ann", made, question.id))
    async for view in saved(reply(), keeper, lambda view: Made()):
        say(f"{time.monotonic()} {made} {view.text.split()[0]}")

async def several():
    store = Store(sys.argv[1])
    await asyncio.gather(*(talk(store) for _ in range(4)))

for _ in sys.stdin:  # a server for each line, without importing everything anew
    server = os.fork()
    if not server:
        asyncio.run(several())
    say(f"{server}")
    os.waitpid(server, 0)
    say("killed")
"""
"""Servers that stream four replies into the store, and say what is seen of them and when."""


def killed(writer: subprocess.Popen[str], seconds: float) -> dict[str, int]:
    """Start a server, kill it so long after its first word, and return how far each of its
    conversations was seen a second before."""
    assert writer.stdin and writer.stdout
    writer.stdin.write("\n")
    writer.stdin.flush()
    server, ending, lines = 0, False, list[list[str]]()
    while (line := writer.stdout.readline().split()) != ["killed"]:
        assert line, "the writer has ended"
        if len(line) == 1:
            server = int(line[0])
        elif len(line) == 3:
            lines.append(line)
        if server and lines and not ending:
            threading.Timer(seconds, os.kill, [server, signal.SIGKILL]).start()
            ending = True
    end, seen = time.monotonic(), dict[str, int]()
    for when, conversation, number in lines:
        seen.setdefault(conversation, 0)
        if float(when) < end - 1:
            seen[conversation] = int(number)
    return seen


@pytest.fixture
def writer(database_url: str) -> Iterator[subprocess.Popen[str]]:
    words, pipe = [sys.executable, "-c", WRITER, database_url], subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, env=os.environ) as writer:
        yield writer


@pytest.mark.parametrize("kills", [2, pytest.param(50, marks=pytest.mark.long)])
def test_what_was_written_a_second_before_a_kill_is_there_after_it(
    database_url: str, writer: subprocess.Popen[str], kills: int
) -> None:
    seen, chance = dict[str, int](), random.Random(kills)
    for _ in range(kills):
        seen |= killed(writer, chance.uniform(0.05, 1.8))
        store = Store(database_url)
        if store.database.is_sqlite:
            with store.database.reading() as connection:
                assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        for made, number in seen.items():
            question, *replies = store.load("ann", made).path()
            assert question.content == "go on"
            content = replies[0].content if replies else ""
            last = int(content.split()[0]) if content else 0
            assert content == f"{last} " * 50 * bool(content) and last >= number
            assert not replies or replies[0].finish is None, "it can be seen that it was cut off"
        store.close()
    assert len(seen) > kills


def test_a_backup_of_a_database_in_use_is_whole_and_can_be_put_back(tmp_path: Path) -> None:
    store, where = Store(f"sqlite:///{tmp_path / 'live.db'}"), f"sqlite:///{tmp_path / 'live.db'}"
    made = store.begin("ann", "chat")
    store.add("ann", made, None, "user", "of before", "person")
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            store.add("ann", made, None, "user", "of later " * 200, "person")

    writing = threading.Thread(target=write)
    writing.start()
    copy = [str(tmp_path / "copy"), "--database", where]
    assert main(["database", "backup", *copy]) == 0
    ended.set()
    writing.join()
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o600
    assert {file.name for file in tmp_path.iterdir()} <= {
        "copy", "live.db", "live.db-wal", "live.db-shm",
    }  # fmt: skip
    count = len(store.load("ann", made).turns)
    store.add("ann", made, None, "user", "lost", "person")
    assert main(["database", "restore", *copy]) == 1, "somebody has it open"
    store.close()
    assert main(["database", "restore", *copy]) == 0
    back = [turn.content for turn in Store(where).load("ann", made).turns]
    assert back[0] == "of before" and "lost" not in back and len(back) <= count
    (kept,) = tmp_path.glob("live.db.*.before")
    assert Store(f"sqlite:///{kept}").load("ann", made).turns[-1].content == "lost"


def test_a_backup_takes_the_place_of_a_broken_database(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'good.db'}")
    made = store.begin("ann", "chat", "Mine")
    back_up(store.database, tmp_path / "copy")
    (tmp_path / "broken.db").write_text("torn " * 9999)
    _, kept = restore(tmp_path / "copy", f"sqlite:///{tmp_path / 'broken.db'}")
    assert kept is not None and kept.read_text().startswith("torn")
    assert Store(f"sqlite:///{tmp_path / 'broken.db'}").load("ann", made).title == "Mine"


@pytest.mark.parametrize("has_links", [True, False])
def test_where_a_backup_cannot_be_put_back_what_was_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    where = f"sqlite:///{tmp_path / 'live.db'}"
    store = Store(where)
    made = store.begin("ann", "chat", "Mine")
    back_up(store.database, tmp_path / "copy")
    store.close()

    def full(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:4096])
        raise OSError(errno.ENOSPC, "No space left on device")

    def refused(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not has_links:
        monkeypatch.setattr(os, "link", refused)
    for owner, name, fails in ((shutil, "copyfile", full), (Path, "replace", refused)):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fails)
            with pytest.raises(StorageError, match="what was there is there still"):
                restore(tmp_path / "copy", where)
        with closing(sqlite3.connect(tmp_path / "live.db")) as connection:
            assert connection.execute("SELECT title FROM conversations").fetchone() == ("Mine",)
        assert {file.name for file in tmp_path.iterdir()} == {"copy", "live.db"}
    _, kept = restore(tmp_path / "copy", where)
    assert kept is not None and kept.stat().st_ino != (tmp_path / "live.db").stat().st_ino
    assert Store(where).load("ann", made).title == "Mine"


def test_a_backup_is_of_what_is_there_as_it_is(
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.setenv("LMAPPS_HOME", str(tmp_path / "wrong"))
    copy, where = tmp_path / "copy", ["--database", database_url]
    assert main(["database", "backup", str(copy)]) == 2 and not (tmp_path / "wrong").exists()
    assert main(["database", "backup", str(copy), *where]) == 2
    assert capsys.readouterr().err.count("no database of lmapps in") == 2
    assert not list(tmp_path.iterdir())
    older(database_url, "0002")
    if "postgresql" in database_url:
        programs = request.getfixturevalue("postgres_programs")
        monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    assert main(["database", "backup", str(copy), *where]) == 0
    assert version(Database(database_url, as_it_is=True)) == ["0002"]


def test_a_backup_never_overwrites_and_a_file_that_is_none_is_not_put_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(f"sqlite:///{tmp_path / 'live.db'}")
    made, where = (
        store.begin("ann", "chat", "Mine"),
        ["--database", f"sqlite:///{tmp_path / 'live.db'}"],
    )
    (tmp_path / "note").write_text("not a database, " * 99)
    assert main(["database", "backup", str(tmp_path / "note"), *where]) == 2
    assert main(["database", "backup", str(tmp_path / "no" / "copy"), *where]) == 1
    assert main(["database", "restore", str(tmp_path / "note"), *where]) == 2
    assert main(["database", "restore", str(tmp_path / "nothing"), *where]) == 2
    told = capsys.readouterr().err
    for words in ("is there already", "cannot be written", "no backup", "nothing is no backup"):
        assert words in told
    assert store.load("ann", made).title == "Mine" and not list(tmp_path.glob("*.before"))


def test_a_backup_of_postgresql_is_what_its_own_program_puts_back(
    postgres: str,
    postgres_url: str,
    postgres_programs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import psycopg

    older(postgres_url, "0002")
    with psycopg.connect(postgres_url) as connection:
        connection.execute(
            "INSERT INTO conversations (id, owner, plugin, title, leaf, updated) "
            "VALUES ('c', 'ann', 'chat', 'Mine', '', 1)"
        )
    file, where = tmp_path / "copy", ["--database", postgres_url]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["database", "backup", str(file), *where]) == 1 and not file.exists()
    monkeypatch.setenv("PATH", str(postgres_programs))
    assert main(["database", "backup", str(file), *where]) == 0
    store = Store(postgres_url)  # brings it up to date
    store.rename("ann", "c", "Renamed")
    store.close()
    assert main(["database", "restore", str(file), *where]) == 2, "it is said how"
    (told,) = re.findall("`(pg_restore .*)`", capsys.readouterr().err)
    documented = (Path(__file__).parents[2] / "docs" / "accounts.md").read_text()
    assert f"`{told.replace(str(file), 'FILE')}`" in documented
    another = new_database(postgres)
    subprocess.run(shlex.split(told.replace("URL", another)), check=True)
    assert version(Database(another, as_it_is=True)) == ["0002"]
    assert Store(another).load("ann", "c").title == "Mine"


@pytest.mark.parametrize("form", ["user", "query"])
def test_no_password_stands_in_the_arguments_of_pg_dump(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    url = postgres_url.replace("lmapps@", "lmapps:hunter22@")
    if form == "query":
        url = f"{postgres_url}&password=hunter22"
    program = tmp_path / "pg_dump"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$PGPASSWORD" "$@" > {tmp_path}/told\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    database = Database(url)
    back_up(database, tmp_path / "copy")
    database.close()
    secret, *words = (tmp_path / "told").read_text().splitlines()
    assert secret == "hunter22"
    assert words[-1].startswith("--dbname=postgresql://lmapps@/") and "?host=" in words[-1]
    assert not [word for word in words if "hunter" in word or "***" in word]
