"""A server that is told to stop: streams come to their end, or are told why not."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from lmapps.discovery import Found
from lmapps.engine.engine import Engine
from lmapps.engine.models import Models
from lmapps.server.gate.server import Server
from lmapps.server.serve import create_app
from lmapps.server.store.store import Store

ASK = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}


def begun(checkpoint: Any, folder: Path, grace: float, seconds: float) -> tuple[Server, Any, str]:
    """A server in a thread whose steps take so many seconds, and its thread and address."""
    engine = Engine(checkpoint)
    decode = engine._scheduler.slots.decode
    engine._scheduler.slots.decode = lambda: (time.sleep(seconds), decode())[1]  # type: ignore
    models = Models.of(engine)
    app = create_app(models, Found(), Store(f"sqlite:///{folder}/x.db"))
    server = Server(app, models, grace, port=0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    return server, thread, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(("grace", "ending"), [(20.0, "[DONE]"), (0.2, "shutting down")])
def test_a_stream_ends_by_itself_within_the_grace_or_with_a_reason(
    endless_checkpoint: Callable[[str], Any], tmp_path: Path, grace: float, ending: str
) -> None:
    server, thread, url = begun(endless_checkpoint("gru"), tmp_path, grace, 0.05)
    body = {**ASK, "max_tokens": 30}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as answer:
        lines = answer.iter_lines()
        next(lines)
        server.handle_exit(15, None)
        read = list(lines)
    thread.join(20)
    assert not thread.is_alive()
    assert any(ending in line for line in read)
    assert grace == 20.0 or sum('"content"' in line for line in read) < 29
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


def test_a_second_signal_ends_at_once(
    endless_checkpoint: Callable[[str], Any], tmp_path: Path
) -> None:
    server, thread, url = begun(endless_checkpoint("gru"), tmp_path, 60, 0.1)

    async def ask() -> None:
        async with httpx.AsyncClient(timeout=60) as client:
            body = {**ASK, "max_tokens": 100}
            async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
                await anext(answer.aiter_lines())
                server.handle_exit(15, None)
                server.handle_exit(15, None)
                await asyncio.to_thread(thread.join, 5)
                assert not thread.is_alive()

    asyncio.run(ask())


def test_a_connection_is_kept_longer_than_those_keep_it_who_ask_again() -> None:
    """Else their next request may meet its end: a 502 behind nginx, which keeps one for 60 s."""
    assert Server(None).config.timeout_keep_alive > 60


def test_the_loop_is_the_one_that_is_tried_whatever_else_is_installed() -> None:
    assert Server(None).config.loop == "asyncio"
