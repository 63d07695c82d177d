"""What is kept of a page's events, who is refused, and what the log is told of them."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import gradio as gr
import httpx
import pytest
from fastapi import FastAPI

from lmapps.server.gate.gate import Gate
from lmapps.server.gate.hosts import Hosts
from lmapps.server.gate.log import Lines
from lmapps.server.page import events, news
from lmapps.server.page.look import mount
from lmapps.server.page.sparing import Page

SAID = "what I wrote to my doctor"


class Small:
    """A page with one event of each kind, behind the gate."""

    def __init__(self, at_once: int = 40) -> None:
        self.begun, self.may_end, self.ended = (asyncio.Event() for _ in range(3))
        with Page() as self.page:
            box, line = gr.Textbox(), gr.Markdown()
            for how in (self.echo, self.grow, self.fail):
                box.submit(how, box, line)
            box.submit(self.fail, None, line, queue=False)
            box.submit(None, js="() => {}")
        self.echoes, self.grows, self.fails, self.fails_at_once, *rest = self.page.fns
        (self.only_in_the_browser,) = rest
        self.page.max_threads = at_once
        self.page.queue(default_concurrency_limit=None, api_open=False)
        inside = mount(FastAPI(), self.page, [])
        self.lifespan = inside.router.lifespan_context(inside)
        self.app = Gate(inside, Hosts())

    @property
    def kept(self) -> set[str]:
        """The pages of which something is kept."""
        queue = self.page._queue
        return {*queue.pending_messages_per_session, *queue.pending_event_ids_session}

    def echo(self, text: str) -> str:
        return text

    async def grow(self, text: str) -> AsyncGenerator[str, None]:
        try:
            self.begun.set()
            while not self.may_end.is_set():
                yield text
                await asyncio.sleep(0.01)
            yield "whole"
        finally:
            self.ended.set()

    def fail(self, text: str = SAID) -> str:
        try:
            raise KeyError(text)
        except KeyError:
            raise ValueError(f"cannot do {text}") from None

    def client(self, address: str = "127.0.0.1") -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.app, client=(address, 1))  # type: ignore[arg-type]
        return httpx.AsyncClient(transport=transport, base_url="http://localhost")


def run(visit: Coroutine[Any, Any, None]) -> None:
    async def soon() -> None:
        await asyncio.wait_for(visit, 60)

    asyncio.run(soon())


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream ends soon after what it tells."""
    monkeypatch.setattr(news, "LINGER", 0.02)


@asynccontextmanager
async def opened(at_once: int = 40) -> AsyncIterator[tuple[Small, httpx.AsyncClient]]:
    small = Small(at_once)
    async with small.lifespan, small.client() as client:
        yield small, client


async def ask(client: httpx.AsyncClient, page: Any, event: Any, *data: Any) -> httpx.Response:
    body = {"session_hash": page, "fn_index": event, "data": data}
    return await client.post("/gradio_api/queue/join", json=body)


async def read(client: httpx.AsyncClient, page: str) -> list[dict[str, Any]]:
    """What a page is told until there is nothing more to tell."""
    answer = await client.get("/gradio_api/queue/data", params={"session_hash": page})
    lines = answer.text.splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: ")]


def test_pages_that_do_not_read_end_nobodys_stream_and_not_much_is_kept_of_them() -> None:
    async def visit() -> None:
        async with opened() as (small, client):
            assert (await ask(client, "reads", small.grows, "a")).status_code == 200
            reading = asyncio.create_task(read(client, "reads"))
            await small.begun.wait()
            while not small.page._queue.pending_messages_per_session["reads"].empty():
                await asyncio.sleep(0.001)
            for number in range(2100):
                answer = await ask(client, f"made up {number}", small.echoes, "a")
                assert answer.status_code == 200, answer.text
            small.may_end.set()
            told = await reading
            assert [one["msg"] for one in told[-2:]] == ["process_completed", "close_stream"]
            assert told[-2]["success"] and "whole" in str(told)
            assert len(small.kept) == events.MOST_UNREAD, "and nothing of the one that has read"
            assert (await read(client, "made up 2099"))[-1]["msg"] == "close_stream"
            assert (await read(client, "made up 0"))[-1]["session_not_found"]

    run(visit())


def test_the_oldest_that_is_forgotten_is_of_the_same_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events, "MOST_UNREAD", 2)

    async def visit() -> None:
        async with opened() as (small, client), small.client("192.0.2.7") as other:
            await ask(other, "other", small.echoes, "a")
            for number in range(4):
                await ask(client, f"page {number}", small.echoes, "a")
            assert small.kept == {"other", "page 2", "page 3"}

    run(visit())


def test_the_queue_goes_on_when_pages_that_wait_in_it_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events, "MOST_UNREAD", 2)

    async def visit() -> None:
        async with opened(at_once=1) as (small, client), small.client("192.0.2.7") as other:
            await ask(other, "first", small.grows, "a")
            await small.begun.wait()
            for number in range(6):
                await ask(client, f"page {number}", small.echoes, "a")
            small.page._queue.pending_messages_per_session.pop("page 4")  # whatever does so
            small.may_end.set()
            for page in ("first", "page 5"):
                assert (await read(client, page))[-1]["msg"] == "close_stream"

    run(visit())


def test_an_event_that_no_page_reads_ends_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(events, "time", SimpleNamespace(monotonic=lambda: now[0]))

    async def visit() -> None:
        async with opened() as (small, client):
            await ask(client, "left alone", small.grows, "a")
            await small.begun.wait()
            now[0] = events.PATIENCE_SECONDS - 1
            await ask(client, "new", small.echoes, "a")
            assert small.kept == {"left alone", "new"} and not small.ended.is_set()
            now[0] += 2
            await ask(client, "newer", small.echoes, "a")
            await small.ended.wait()
            assert small.kept == {"new", "newer"}

    run(visit())


def test_of_a_page_that_closes_while_it_reads_nothing_is_kept() -> None:
    async def visit() -> None:
        async with opened() as (small, client):
            await ask(client, "closes", small.grows, "a")
            reading = asyncio.create_task(read(client, "closes"))
            await small.begun.wait()
            reading.cancel()
            await asyncio.wait([reading])
            await small.ended.wait()
            assert not small.kept

    run(visit())


def test_what_cannot_be_asked_for_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MOST_EVENTS", 2)

    async def visit() -> None:
        async with opened() as (small, client):
            for page, event, data, told in (
                ("a", 999, ["x"], "no event 999"), ("a", -1, ["x"], "no event -1"),
                ("a", small.only_in_the_browser, [], "no event"), ("a", None, [], "no event"),
                ("", small.echoes, ["x"], "load it again"), (None, small.echoes, ["x"], "again"),
                ("a", small.echoes, [], "takes 1 values, got 0"),
            ):  # fmt: skip
                answer = await ask(client, page, event, *data)
                assert answer.status_code == 400, answer.text
                assert told in answer.json()["error"]["message"] == answer.json()["detail"]
            for body, status in (
                ({"data": []}, 400), ({"data": [], "fn_index": 999}, 400),
                ({"data": [], "fn_index": small.echoes}, 400),
                ({"data": ["x"], "fn_index": small.echoes}, 404),
                ({"data": [], "fn_index": small.fails_at_once, "batched": True}, 400),
                ({"data": [], "fn_index": small.only_in_the_browser}, 400),
            ):  # fmt: skip
                answer = await client.post("/gradio_api/run/predict", json=body)
                assert answer.status_code == status, answer.text
            answers = [await ask(client, "greedy", small.echoes, "a") for _ in range(3)]
            assert [answer.status_code for answer in answers] == [200, 200, 429]

    run(visit())


@pytest.fixture
def log() -> Iterator[dict[bool, io.StringIO]]:
    """What the log has been told, by whether prompts may stand in it."""
    told = {with_prompts: io.StringIO() for with_prompts in (False, True)}
    logger, handlers = logging.getLogger("lmapps"), list[logging.Handler]()
    for with_prompts, stream in told.items():
        handlers.append(logging.StreamHandler(stream))
        handlers[-1].setFormatter(Lines(with_prompts))
        logger.addHandler(handlers[-1])
    yield told
    for handler in handlers:
        logger.removeHandler(handler)


def test_what_fails_in_an_event_is_one_line_of_the_log_without_what_was_written(
    log: dict[bool, io.StringIO], capfd: pytest.CaptureFixture[str]
) -> None:
    async def visit() -> None:
        async with opened() as (small, client):
            client.headers["x-request-id"] = "asked-for-1"
            await ask(client, "a", small.fails, SAID)
            told = await read(client, "a")
            assert told[-2]["output"]["error"] == f"cannot do {SAID}", "who wrote it is told"
            body = {"data": [], "fn_index": small.fails_at_once}
            assert (await client.post("/gradio_api/run/predict", json=body)).status_code == 500

    run(visit())
    for with_prompts, stream in log.items():
        lines = [line for line in stream.getvalue().splitlines() if "an event failed" in line]
        assert len(lines) == 2
        for line in lines:
            assert "level=error" in line and "request=asked-for-1" in line
            assert "error=ValueError" in line and "in fail" in line
            assert (SAID in line) == with_prompts
    printed = capfd.readouterr()
    assert SAID not in printed.out + printed.err and "Traceback" not in printed.err
