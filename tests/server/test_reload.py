"""A running server that is told to read its settings again: what can change does."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from lmapps.engine.models import Models
from lmapps.errors import SettingsError
from lmapps.server import serve as serving
from lmapps.server.accounts.users import Users
from lmapps.server.gate.hosts import Hosts, WrongHost
from lmapps.server.gate.server import Server
from lmapps.server.reload import Hangup, Reload
from lmapps.server.settings import ServeSettings
from lmapps.server.store.store import Store

START = ServeSettings()


def test_what_can_change_does_and_what_cannot_is_named(caplog: pytest.LogCaptureFixture) -> None:
    new, applied = replace(START, grace=5.0, log="debug", port=8001), list[ServeSettings]()
    reload = Reload(START, lambda: new, [applied.append])
    reload()
    assert applied == [new]
    assert reload.now == replace(START, grace=5.0, log="debug"), "the port is what it was"
    told: Any = caplog.records[-1]
    assert told.fields == {"changed": "log, grace", "at_the_next_start": "port"}
    reload()
    told = caplog.records[-1]
    assert told.fields == {"changed": "nothing", "at_the_next_start": "port"}


def test_settings_with_a_mistake_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def read() -> ServeSettings:
        raise SettingsError("/x.toml: port must be a whole number, got 'x'")

    reload = Reload(START, read, [lambda _: pytest.fail("nothing is applied")])
    reload()
    told: Any = caplog.records[-1]
    assert "whole number" in told.fields["reason"] and reload.now is START


LIVE: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "hosts": (("lm.example.org",), lambda run: run.is_called("lm.example.org")),
    "log": ("error", lambda run: logging.getLogger("lmapps").level == logging.ERROR),
    "log_format": ("json", lambda run: run.lines.form == "json"),
    "log_prompts": (True, lambda run: run.lines.with_prompts),
    "grace": (7.0, lambda run: run.server.grace == 7.0),
    "memory": (3.0, lambda run: run.models.budget == 3 * 2**30),
    "requests_a_minute": (9, lambda run: run.access.quotas.limits.requests_a_minute == 9),
    "tokens_a_day": (99, lambda run: run.access.quotas.limits.tokens_a_day == 99),
}
"""Each setting that can change, another value of it, and where it shows; a new one is told here."""


class Run:
    """What `serve` has made of its settings."""

    models: Models
    access: Any
    hosts: Hosts
    server: Server

    @property
    def lines(self) -> Any:
        return logging.getLogger("lmapps").handlers[0].formatter

    def is_called(self, name: str) -> bool:
        try:
            self.hosts.check("GET", {"host": name})
        except WrongHost:
            return False
        return True


@pytest.fixture
def logging_restored() -> Any:
    loggers = [logging.getLogger(name) for name in ("lmapps", "uvicorn", "uvicorn.error")]
    before = [(one, one.handlers, one.level, one.propagate, one.filters) for one in loggers]
    handler = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, handler)
    for one, handlers, level, propagate, filters in before:
        one.handlers, one.propagate, one.filters = handlers, propagate, filters
        one.setLevel(level)


def test_every_setting_that_is_live_counts_after_a_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Any, logging_restored: None
) -> None:
    assert LIVE.keys() == {one.name for one in fields(ServeSettings) if one.metadata["live"]}
    tiny_checkpoint("gru").save(tmp_path / "model")
    database = f"sqlite:///{tmp_path / 'x.db'}"
    store = Store(database)
    Users(store.database).add("ann", "correct horse")
    store.close()
    start = ServeSettings(checkpoint=(str(tmp_path / "model"),), port=1, database=database)
    new = replace(start, **{name: value for name, (value, _) in LIVE.items()})
    run, done = Run(), threading.Event()

    def app(models: Models, found: Any, store: Any, access: Any, hosts: Hosts, root: str) -> Any:
        run.models, run.access, run.hosts = models, access, hosts
        return None

    def running(server: Server, sockets: Any) -> None:
        run.server = server
        assert not any(is_so(run) for _, is_so in LIVE.values())
        os.kill(os.getpid(), signal.SIGHUP)
        assert done.wait(20)
        left = [name for name, (_, is_so) in LIVE.items() if not is_so(run)]
        assert left == []

    def read() -> ServeSettings:
        return new

    monkeypatch.setattr(serving, "create_app", app)
    monkeypatch.setattr(Server, "run", running)
    monkeypatch.setattr(ServeSettings, "listen", lambda _: None)
    hangup = Hangup()
    reloads = hangup.reloads
    hangup.reloads = lambda reload: reloads(  # type: ignore[method-assign]
        lambda: (reload(), done.set())[0]
    )
    serving.serve(start, read, hangup)
    run.models.close()
    run.access.close()


def test_a_terminal_that_was_closed_ends_the_server(
    monkeypatch: pytest.MonkeyPatch, logging_restored: None
) -> None:
    ended, terminal = list[int](), [True]
    monkeypatch.setattr(os, "isatty", lambda _: terminal[0])
    monkeypatch.setattr(signal, "raise_signal", ended.append)
    reloaded = threading.Event()
    Hangup().reloads(reloaded.set)
    os.kill(os.getpid(), signal.SIGHUP)
    assert reloaded.wait(10) and not ended
    terminal[0] = False
    os.kill(os.getpid(), signal.SIGHUP)
    assert ended == [signal.SIGTERM]


SLOW = """
import sys
from lmapps.__main__ import main
from lmapps.server import serve

models_of = serve.models_of

def slow(*given):
    print("loading", flush=True)
    sys.stdin.readline()
    return models_of(*given)

serve.models_of = slow
sys.exit(main(sys.argv[1:]))
"""


def test_a_signal_while_it_starts_does_not_end_it_and_counts_when_it_serves(
    tmp_path: Path, tiny_checkpoint: Any
) -> None:
    tiny_checkpoint("gru").save(tmp_path / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["serve", "--checkpoint", str(tmp_path / "model"), "--port", str(port)]
    starting = subprocess.Popen(
        [sys.executable, "-c", SLOW, *words, "--database", f"sqlite:///{tmp_path / 'x.db'}"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert starting.stdin and starting.stdout
    watch = threading.Timer(60, starting.kill)
    watch.start()
    assert next(starting.stdout) == "loading\n"
    starting.send_signal(signal.SIGHUP)
    starting.stdin.write("\n")
    starting.stdin.flush()
    assert any('message="settings are loaded again"' in line for line in starting.stdout)
    starting.send_signal(signal.SIGTERM)
    rest = starting.communicate(timeout=30)
    watch.cancel()
    assert starting.returncode in (0, -signal.SIGTERM), rest
