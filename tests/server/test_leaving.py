"""Who leaves frees the slot with the step that is under way, wherever the reply is: counted."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi import Request

from lmapps.discovery import discover
from lmapps.server.api.connection import Disconnected, Events, while_connected

WORDS = "the cat " * 12
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": WORDS}]},
    "/v1/completions": {"prompt": WORDS},
    "/apps/summarize": {"text": WORDS},
}
everywhere = pytest.mark.parametrize("path", BODIES)
either_way = pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])


@contextmanager
def asked(served: Any, path: str, streams: bool) -> Iterator[socket.socket]:
    """A client that asked and reads nothing; at the end it leaves."""
    host, port = served.url.removeprefix("http://").split(":")
    body = json.dumps({**BODIES[path], "stream": streams})
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall((head + body).encode())
        yield connection


@pytest.fixture(scope="module")
def served(serve: Callable[..., Any]) -> Iterator[Any]:
    """One slot, and a reply that takes half a minute: it cannot end by itself during a test."""
    with serve(discover(), 0.3, slots=1) as running:
        yield running


@everywhere
@either_way
def test_a_reply_ends(
    served: Any, leaving: Any, wait_until: Callable[..., None], path: str, streams: bool
) -> None:
    before = served.engine.counts.generated_tokens
    with asked(served, path, streams):
        wait_until(lambda: served.engine.counts.generated_tokens >= before + 2)
        left = leaving(served)
    left.frees_its_slot()
    assert left.steps <= 2, "the one under way, and one where that was ending"


@everywhere
@either_way
def test_a_prompt_is_read_no_further(
    served: Any,
    leaving: Any,
    wait_until: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    streams: bool,
) -> None:
    """Its pieces, a token each, are read one a step."""
    monkeypatch.setattr("lmapps.engine.scheduler.PREFILL_TOKENS", 1)
    slots = served.engine._scheduler.slots
    slots.prefixes.clear()
    reading, prefill = list[Any](), slots.prefill

    def slow_prefill(request: Any, most: int) -> Any:
        reading.append(request)
        time.sleep(0.1)
        return prefill(request, most)

    monkeypatch.setattr(slots, "prefill", slow_prefill)
    with asked(served, path, streams):
        wait_until(lambda: len(reading) >= 2)
        left = leaving(served)
    left.frees_its_slot()
    assert reading[0].prefilled < len(reading[0].prompt_ids) > 25


@everywhere
@either_way
def test_a_place_in_the_queue_is_given_up(
    served: Any, leaving: Any, wait_until: Callable[..., None], path: str, streams: bool
) -> None:
    before = served.engine.counts.generated_tokens
    with asked(served, "/v1/completions", True):
        wait_until(lambda: served.engine.counts.generated_tokens >= before + 2)
        with asked(served, path, streams):
            wait_until(lambda: served.engine.waiting == 1)
            left = leaving(served)
        wait_until(lambda: left.passes is not None)
        assert served.engine.running == 1 and served.engine.waiting == 0
    left.frees_its_slot()


@pytest.mark.parametrize("path", BODIES)
def test_who_waits_is_told_the_place(
    served: Any, wait_until: Callable[..., None], path: str
) -> None:
    served.wait_until_idle()
    with asked(served, "/v1/completions", True):
        wait_until(lambda: served.engine.running == 1)
        with asked(served, path, True) as waiting:
            waiting.settimeout(20)
            seen = b""
            while b"\n\n" not in seen.partition(b"\r\n\r\n")[2]:
                seen += waiting.recv(4096)
    told = seen.partition(b"\r\n\r\n")[2].decode()
    first = '{"event": "waiting", "position": 1}' if path.startswith("/apps") else ": position 1"
    assert first in told, told
    served.wait_until_idle()


def test_that_somebody_leaves_is_nothing_to_report(
    served: Any, wait_until: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    served.wait_until_idle()
    caplog.set_level("INFO", "lmapps.requests")
    with asked(served, "/v1/completions", False):
        wait_until(lambda: served.engine.running == 1)
    wait_until(lambda: len(caplog.records) > 0)
    assert all(told.levelname == "INFO" and not told.exc_info for told in caplog.records)
    assert caplog.records[-1].fields["status"] == 499  # type: ignore[attr-defined]


class Client:
    """What a server tells an application of its client."""

    def __init__(self) -> None:
        self.leaves = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        """It reads nothing beyond the head."""
        if message["type"] == "http.response.body":
            self.leaves.set()
            await asyncio.Event().wait()


def test_work_is_cancelled_in_the_moment_in_which_the_client_goes() -> None:
    async def leave() -> None:
        client = Client()
        request = Request({"type": "http"}, client.receive)
        work = asyncio.create_task(while_connected(request, asyncio.sleep(3600)))
        await asyncio.sleep(0)
        client.leaves.set()
        for _ in range(10):  # rounds of the event loop, no time
            await asyncio.sleep(0)
        assert work.done()
        with pytest.raises(Disconnected):
            await work

    asyncio.run(leave())


def test_a_stream_that_nobody_takes_any_more_is_closed_before_its_answer_ends() -> None:
    async def leave() -> None:
        closed = threading.Event()

        async def events() -> AsyncGenerator[dict[str, Any] | str, None]:
            try:
                while True:
                    yield {"text": "more"}
            finally:
                closed.set()

        client, answer = Client(), Events(events())
        scope = {"type": "http", "asgi": {"spec_version": "2.3"}}
        await answer(scope, client.receive, client.send)  # type: ignore[arg-type]
        assert closed.is_set()

    asyncio.run(leave())
