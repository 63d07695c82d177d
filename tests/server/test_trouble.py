"""What a server needs and loses while it serves: /health and the page say so, and it goes on."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
import sqlalchemy as sql

from lmapps.decoding import Decoding
from lmapps.discovery import discover
from lmapps.engine.backends.source import Opening, Source, open_backend
from lmapps.engine.engine import Engine
from lmapps.engine.models import Models
from lmapps.errors import CheckpointError, DatabaseFull, StorageError
from lmapps.server import health
from lmapps.server.gate.server import Server
from lmapps.server.page.chat.saved import Place
from lmapps.server.page.chat.talk import Seen, Talk
from lmapps.server.page.way import Way
from lmapps.server.serve import create_app
from lmapps.server.store import database
from lmapps.server.store.backup import back_up, restore
from lmapps.server.store.conversation import NoSuchConversation
from lmapps.server.store.store import Store

ASK = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}


def wait_until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in 30 seconds"
        time.sleep(0.02)


class Running:
    """A server in a thread, whose model is opened anew when it has to be."""

    def __init__(self, open: Callable[[Source], Any], folder: Path, place: str = "") -> None:
        self.file = folder / "it.db"
        self.store = Store(f"sqlite:///{self.file}")
        self.models = Models([Source("it", place)], open)
        self.models.load()
        app = create_app(self.models, discover(), self.store)
        self.server = Server(app, self.models, 0, port=0)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        wait_until(lambda: self.server.started)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"

    @property
    def engine(self) -> Any:
        return self.models.load()

    def ask(self) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/chat/completions", json=ASK, timeout=30)

    def health(self) -> tuple[int, dict[str, Any]]:
        """Its status and the parts that are not well, with why."""
        answer = httpx.get(f"{self.url}/health", timeout=30)
        parts = {p["kind"]: p["reason"] for p in answer.json()["parts"] if p["state"] != "ok"}
        return answer.status_code, parts

    def line(self, language: str = "en", query: str = "") -> str:
        """What an open page says; with `?admins` that of an admin."""
        asks = {"accept-language": language}
        answer = httpx.get(f"{self.url}/plugins/version{query}", headers=asks, timeout=30)
        assert answer.status_code == 200
        return unquote(answer.headers.get("x-lmapps-trouble", ""))

    def end(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)


@pytest.fixture
def running(endless_checkpoint: Callable[[str], Any], tmp_path: Path) -> Iterator[Running]:
    running = Running(lambda source: Engine(endless_checkpoint("gru"), name="it"), tmp_path)
    yield running
    running.end()


@pytest.fixture(autouse=True)
def looked_at_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(health, "LITTLE_BYTES", 0)
    monkeypatch.setattr(health, "NO_BYTES", 0)


def breaks(engine: Any, error: BaseException) -> None:
    def fail() -> None:
        raise error

    engine._scheduler.slots.decode = fail


def test_all_is_well_and_says_so(running: Running) -> None:
    answer = httpx.get(f"{running.url}/health").json()
    assert answer["status"] == "ok"
    assert [part["kind"] for part in answer["parts"]] == [
        "model",
        "database",
        "disk",
        "disk",
        "clock",
    ]
    assert running.line() == ""


def test_a_dead_engine_is_told_to_its_stream_to_health_and_to_the_page_and_comes_back(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    mend = running.models.mend
    monkeypatch.setattr(running.models, "mend", lambda: None)
    body = {**ASK, "stream": True, "max_tokens": 100}
    with httpx.stream("POST", f"{running.url}/v1/chat/completions", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        breaks(running.engine, SystemExit(1))
        read = list(lines)
    assert any("EngineFailed" in line and "SystemExit" in line for line in read)
    assert running.health() == (503, {"model": "the model 'it' failed (SystemExit: 1)"})
    assert running.line() == "The model does not answer at the moment: it is being started again."
    assert running.line("zh-CN").startswith("模型暂时无法回答")
    refused = running.ask()
    assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
    assert httpx.get(f"{running.url}/ready").status_code == 503
    monkeypatch.setattr(running.models, "mend", mend)
    wait_until(lambda: running.health()[0] == 200)
    assert running.ask().status_code == 200 and running.line() == ""
    assert httpx.get(f"{running.url}/ready").status_code == 200


def test_a_server_whose_engine_dies_again_and_again_ends_by_itself(running: Running) -> None:
    while running.thread.is_alive():
        engine = running.models.loaded
        if engine and not engine[0].broken:
            breaks(engine[0], SystemExit(1))
            try:
                assert running.ask().status_code == 503
            except httpx.TransportError:
                break
        time.sleep(0.05)
    running.thread.join(20)
    assert "'it' failed 3 times" in str(running.server.gave_up)


def test_the_command_then_ends_with_a_code_that_starts_it_again(
    tiny_checkpoint: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from lmapps.__main__ import main

    def ends(server: Server, sockets: Any) -> None:
        server.gave_up = "the model 'it' failed 3 times"

    monkeypatch.setattr(Server, "run", ends)
    monkeypatch.setattr("lmapps.server.serve.set_up", lambda *_: None)
    tiny_checkpoint("gru").save(tmp_path / "it")
    words = ["serve", "--checkpoint", str(tmp_path / "it"), "--port", "8199"]
    assert main([*words, "--database", f"sqlite:///{tmp_path}/x.db"]) == 70
    assert "lmapps: the model 'it' failed 3 times; the server has stop" in capsys.readouterr().err
    unit = (Path(__file__).parents[2] / "deploy" / "lmapps.service").read_text()
    assert "Restart=on-failure" in unit


def test_a_broken_folder_that_somebody_asks_for_does_not_make_the_server_fail(
    endless_checkpoint: Callable[[str], Any], tmp_path: Path
) -> None:
    def open(source: Source) -> Any:
        if source.name == "broken" or not is_well:
            raise CheckpointError("config.json is no JSON")
        return Engine(endless_checkpoint("gru"), name="it")

    is_well = True
    running = Running(open, tmp_path)
    running.models.add(Source("broken", "nowhere"))
    for _ in range(4):
        answer = httpx.post(
            f"{running.url}/v1/chat/completions", json={**ASK, "model": "broken"}, timeout=30
        )
        assert answer.status_code == 400
    told = "the model 'broken' failed (config.json is no JSON)"
    assert running.health() == (200, {"model": told})
    assert running.line() == "" and running.line(query="?admins") == NEEDS
    running.models.free("it")
    is_well = False
    assert running.ask().status_code == 400
    assert running.health()[0] == 503, "the default one"
    assert running.line() == "The model cannot be loaded: tell the one who runs this server."
    running.end()


# The database.


def locks(file: Path) -> sqlite3.Connection:
    """Somebody else who writes, and does not end."""
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    return other


def test_a_locked_database_is_told_holds_up_nobody_and_is_over_when_it_is_over(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(locks(running.file)):
        began = time.monotonic()
        status, parts = running.health()
        assert status == 503 and "database is locked" in parts["database"]
        assert running.line().startswith("Nothing can be kept at the moment")
        assert running.ask().status_code == 200, "the API needs no database"
        assert time.monotonic() - began < database.BUSY_SECONDS / 2
    assert running.health() == (200, {}) and running.line() == ""
    running.store.begin("ann", "chat")


def test_a_deleted_database_is_told_and_nothing_is_written_into_nowhere(running: Running) -> None:
    made = running.store.begin("ann", "chat")
    kept = running.file.with_suffix(".kept")
    running.file.rename(kept)
    for use in (
        lambda: running.store.begin("ann", "chat"),
        lambda: running.store.load("ann", made),
    ):
        with pytest.raises(StorageError, match="its file is not there any more"):
            use()
    assert "not there any more" in running.health()[1]["database"]
    assert not running.file.exists(), "no empty one is made in its place"
    assert running.ask().status_code == 200
    kept.rename(running.file)
    assert running.health() == (200, {})
    assert running.store.load("ann", made).id == made


def test_another_file_in_its_place_is_not_written_into(running: Running) -> None:
    copy = running.file.with_suffix(".copy")
    back_up(running.store.database, copy)
    later = running.store.begin("ann", "chat")
    running.file.unlink()
    shutil.copy(copy, running.file)
    assert "another file stands in its place" in running.health()[1]["database"]
    running.file.unlink()
    restore(copy, str(running.store.database.url))
    again = Store(f"sqlite:///{running.file}")
    with pytest.raises(NoSuchConversation):  # nothing of the one before was put into it
        again.load("ann", later)
    again.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MB. In CI too it is left out where it cannot be had: a container may not mount
    as a rule, whoever runs in it. The test after the one that uses it needs none."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may make a disk of its own, and in a container not even root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_under_the_database_is_told_until_there_is_room(small_disk: Path) -> None:
    store = Store(f"sqlite:///{small_disk / 'it.db'}")
    made = store.begin("ann", "chat")
    with (small_disk / "others").open("wb", 0) as others, contextlib.suppress(OSError):
        while others.write(b"x" * 4096):
            pass
    for _ in range(2):
        with pytest.raises(StorageError, match="check that it is there, can be written, and has r"):
            store.add("ann", made, None, "user", "x" * 10_000, "person")
        with pytest.raises(DatabaseFull) as told:
            store.begin("ann", "chat", "x" * 10_000)
        assert told.value.status == 507 and "disk of the database is full" in told.value.outward
        store.database.check()
        assert "cannot be used" in store.database.trouble
    assert store.load("ann", made).id == made, "what is there can be read"
    (small_disk / "others").unlink()
    store.database.check()
    assert store.database.trouble == ""
    store.add("ann", made, None, "user", "x" * 10_000, "person")
    with closing(sqlite3.connect(small_disk / "it.db")) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store.close()


def test_a_database_that_can_grow_no_more_is_told_and_loses_nothing(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'it.db'}")
    made = store.begin("ann", "chat")
    most, engine = [0], store.database._writer
    sql.event.listen(
        engine, "connect", lambda raw, _: raw.execute(f"PRAGMA max_page_count={most[0]}")
    )
    with closing(sqlite3.connect(tmp_path / "it.db")) as raw:
        most[0] = raw.execute("PRAGMA page_count").fetchone()[0]
    engine.dispose()  # connections from here on have the limit
    with pytest.raises(StorageError, match=r"is full\): check that it is there, can be w.* has r"):
        store.add("ann", made, None, "user", "x" * 50_000, "person")
    assert "cannot be used" in store.database.trouble and not store.load("ann", made).turns
    most[0] *= 100
    engine.dispose()
    store.add("ann", made, None, "user", "x" * 50_000, "person")
    assert store.database.trouble == "" and len(store.load("ann", made).turns) == 1
    store.close()


def test_a_postgresql_that_is_started_again_is_found_again(
    postgres_programs: Path, postgres: str, postgres_url: str
) -> None:
    import psycopg

    store = Store(postgres_url)
    made = store.begin("ann", "chat")
    with psycopg.connect(postgres.format("postgres"), autocommit=True) as other:
        theirs = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
        name = store.database.url.database
        other.execute(theirs, [name])  # as when it is stopped under load
        assert store.load("ann", made).id == made
        other.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        other.execute(theirs, [name])
        with pytest.raises(StorageError, match="cannot be used"):
            store.load("ann", made)
        store.database.check()
        assert "cannot be used" in store.database.trouble
        other.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())
    store.database.check()
    assert store.database.trouble == "" and store.load("ann", made).id == made
    store.close()


# A reply that cannot be kept for a while.


@pytest.fixture
def talk(endless_checkpoint: Callable[[str], Any], tmp_path: Path) -> Iterator[Talk]:
    with Engine(endless_checkpoint("gru"), slots=2) as engine:
        decode = engine._scheduler.slots.decode
        slow = lambda: (time.sleep(0.01), decode())[1]  # noqa: E731
        engine._scheduler.slots.decode = slow  # type: ignore[method-assign]
        store = Store(f"sqlite:///{tmp_path / 'it.db'}")
        yield Talk(discover().get("chat"), Models.of(engine), store)


def test_while_one_reply_waits_for_a_locked_database_everybody_else_goes_on(
    talk: Talk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmapps.server.page.chat.saved.SAVE_SECONDS", 0.0)

    async def ask() -> list[Seen]:
        other, seen = locks(tmp_path / "it.db"), list[Seen]()

        async def others() -> None:
            for _ in range(50):
                await asyncio.sleep(0.005)
            other.close()

        going_on = asyncio.create_task(others())
        async for one in talk.send(Place("ann"), "one", way(20)):
            assert going_on.done(), "the message was kept before the lock was gone"
            seen.append(one)
        return seen

    seen = asyncio.run(ask())
    assert len(seen[-1].turns or ()) == 2 and not seen[-1].busy


def test_a_reply_goes_on_where_it_cannot_be_kept_and_is_kept_whole_at_its_end(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmapps.server.page.chat.saved.SAVE_SECONDS", 0.0)
    grow, tried = talk.store.grow, list[str | None]()

    def fails_in_the_middle(turn: str, text: str, finish: str | None = None, *made: Any) -> None:
        tried.append(finish)
        if finish is None:
            raise StorageError("the database is full")
        grow(turn, text, finish, *made)

    monkeypatch.setattr(talk.store, "grow", fails_in_the_middle)
    seen = run(talk.send(Place("ann"), "one", way(60)))
    kept = talk.store.load("ann", seen[-1].place.conversation or "").path()
    assert len(tried) > 2 and kept[1].content == (seen[-1].turns or [])[1].content
    assert kept[1].finish == "stop"


def test_a_reply_that_could_not_be_kept_at_its_end_says_so(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise StorageError("the database is full")

    monkeypatch.setattr(talk.store, "grow", fails)
    with pytest.raises(StorageError, match="full"):  # the tab makes a line of it
        run(talk.send(Place("ann"), "one", way(20)))


def way(tokens: int) -> Way:
    return Way({"persona": ""}, lambda: Decoding(seed=1, max_new_tokens=tokens))


def run(news: Any) -> list[Seen]:
    async def all_of_them() -> list[Seen]:
        return [seen async for seen in news]

    return asyncio.run(all_of_them())


# Disks.


def test_a_disk_with_little_room_is_told_to_the_operator_and_a_full_one_to_everybody(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "LITTLE_BYTES", 2**60)
    status, parts = running.health()
    assert status == 200 and "make room" in parts["disk"] and running.line() == ""
    assert running.line(query="?admins") == "The disk of this server has little room left."
    monkeypatch.setattr(health, "NO_BYTES", 2**60)
    assert running.health()[0] == 503
    assert running.line() == "The disk of this server is full: tell the one who runs it."


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_an_upload_on_a_full_disk_is_a_sentence(
    running: Running, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("gradio.route_utils.GradioUploadFile.write", full, raising=False)
    monkeypatch.setattr("gradio.route_utils.GradioMultiPartParser.parse", full)
    answer = httpx.post(
        f"{running.url}/gradio_api/upload", files={"files": ("a.txt", b"x" * 100)}, timeout=30
    )
    assert answer.status_code == 507
    assert "the disk of the server is full" in answer.json()["error"]["message"]


# The clock.


@pytest.mark.parametrize("days", [-400, 400])
def test_a_clock_that_jumps_ends_no_reply_and_no_wait(
    running: Running, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    now = time.time
    body = {**ASK, "stream": True, "max_tokens": 60}
    with httpx.stream("POST", f"{running.url}/v1/chat/completions", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        monkeypatch.setattr(time, "time", lambda: now() + days * 86_400)
        read = list(lines)
    assert read[-2:] == ["data: [DONE]", ""]
    assert any('"finish_reason": "length"' in one for one in read), "all of its tokens"
    assert running.ask().status_code == 200
    status, parts = running.health()
    assert status == 200 and parts.keys() == {"clock"}
    assert ("seconds ahead" if days > 0 else "seconds back") in parts["clock"]
    assert running.line() == "" and running.line(query="?admins").startswith("The clock of this s")
    monkeypatch.setattr(health, "TOLD_SECONDS", 0.0)
    assert running.health() == (200, {}) and running.line(query="?admins") == ""
    made = running.store.begin("ann", "chat")
    running.store.add("ann", made, None, "user", "one", "person")
    monkeypatch.setattr(time, "time", now)
    assert [one.id for one in running.store.list("ann", "chat")] == [made]


def test_a_clock_that_is_put_right_little_by_little_does_not_jump(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wall, steady = 1e9, 1e5
    monkeypatch.setattr(time, "time", lambda: wall)
    monkeypatch.setattr(time, "monotonic", lambda: steady)
    clock = health.Clock()
    for hours in (1, 1, 10):  # as far as it may be put right meanwhile
        steady, wall = steady + 3600 * hours, wall + 3600 * hours * 1.0005
        assert clock.look().state == "ok"
    wall -= 6
    assert clock.look().state == "degraded"
    steady, wall = steady + 59, wall + 59
    assert clock.look().reason == "the machine's clock went 6 seconds back (set, or it slept)"
    steady, wall = steady + 1, wall + 1
    assert clock.look().state == "ok"


# The checkpoint.


@pytest.mark.parametrize("body", ["transformer", "gru"])
def test_a_checkpoint_that_is_deleted_or_cut_while_it_serves_is_told_and_goes_on(
    tiny_checkpoint: Callable[[str], Any], tmp_path: Path, body: str
) -> None:
    folder = tmp_path / "it"
    tiny_checkpoint(body).save(folder)
    source = Source("it", str(folder))
    models = Models([source], lambda source: open_backend(source, Opening(slots=2)))
    engine: Any = models.load()
    with (folder / "model.safetensors").open("r+b") as weights:
        weights.truncate(10)  # as by a copy over it: what was mapped into memory would be gone
    assert engine.generate([5, 6, 7], Decoding(max_new_tokens=4)).tokens
    shutil.rmtree(folder)
    assert engine.generate([5, 6, 8], Decoding(max_new_tokens=4)).tokens
    (one,) = models.describe()
    assert "the files of the model 'it' are gone: it answers from memory" in one.trouble
    assert not one.is_failed
    models.free("it")
    with pytest.raises(CheckpointError, match="there is no checkpoint folder"):
        models.load()
    assert models.describe()[0].is_failed
    tiny_checkpoint(body).save(folder)
    models.load()
    assert models.describe()[0].trouble == ""
    models.close()


NEEDS = "A model needs looking after: the Models tab says which, and why."


def test_files_that_are_gone_are_told_by_health_and_on_the_page_of_admins(
    tiny_checkpoint: Callable[[str], Any], tmp_path: Path
) -> None:
    folder = tmp_path / "it"
    tiny_checkpoint("gru").save(folder)
    running = Running(lambda source: open_backend(source, Opening()), tmp_path, str(folder))
    shutil.rmtree(folder)
    status, parts = running.health()
    assert status == 200 and parts["model"].startswith("the files of the model 'it' are gone")
    assert httpx.get(f"{running.url}/health").json()["status"] == "degraded"
    assert running.ask().status_code == 200
    assert running.line() == "" and running.line(query="?admins") == NEEDS
    assert running.line("zh-CN", "?admins").startswith("有模型需要处理")
    tiny_checkpoint("gru").save(folder)
    assert running.health() == (200, {}) and running.line(query="?admins") == ""
    running.end()


def test_memory_that_ended_is_told_by_health_and_on_the_page_of_admins_for_a_minute(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(running.engine._scheduler.slots, "prefill", full)
        assert running.ask().status_code == 429
    assert running.ask().status_code == 200
    status, parts = running.health()
    assert status == 200 and "'it' could not answer somebody" in parts["model"]
    assert "memory" in parts["model"]
    assert running.line() == "" and running.line(query="?admins") == NEEDS
    monkeypatch.setattr("lmapps.engine.entry.TROUBLE_SECONDS", 0.0)
    assert running.health() == (200, {}) and running.line(query="?admins") == ""


def test_why_something_failed_is_for_admins(running: Running) -> None:
    through_a_proxy = {"x-forwarded-for": "192.0.2.1"}
    with closing(locks(running.file)):
        told = httpx.get(f"{running.url}/health", headers=through_a_proxy, timeout=30).json()
        (part,) = [part for part in told["parts"] if part["kind"] == "database"]
        assert part["state"] == "failed" and part["reason"] == ""
        assert str(running.file) in running.health()[1]["database"]
