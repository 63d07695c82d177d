"""The stream of what an open page is told: whole, in order, and with nothing kept of it at its
end."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from asyncio import Queue as Pending
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from gradio.queueing import Event
from gradio.server_messages import (
    CloseStreamMessage,
    EstimationMessage,
    ProcessCompletedMessage,
    ProcessGeneratingMessage,
)

from lmapps.server.page import events
from lmapps.server.page import news as module
from lmapps.server.page.events import Events
from lmapps.server.page.faults import attend
from lmapps.server.page.news import news, tell

PAGE = "a page"


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINGER", 0.02)


def grown(text: str, event: str = "one") -> ProcessGeneratingMessage:
    return ProcessGeneratingMessage(output={"data": [text]}, success=True, event_id=event)


def ended(event: str = "one") -> ProcessCompletedMessage:
    return ProcessCompletedMessage(output={"data": []}, success=True, event_id=event)


def with_page(work: Callable[[Events, Pending[Any]], Awaitable[Any]], *events: str) -> Any:
    """A queue, with these events of the page under way."""

    async def run() -> Any:
        with gr.Blocks() as blocks:
            pass
        queue, pending = Events(blocks), Pending[Any]()
        queue.pending_messages_per_session[PAGE] = pending
        queue.pending_event_ids_session[PAGE] = set(events)
        told = await work(queue, pending)
        assert PAGE not in queue.pending_messages_per_session
        assert PAGE not in queue.pending_event_ids_session
        return told

    return asyncio.run(run())


def messages_in(piece: bytes) -> list[dict[str, Any]]:
    lines = piece.decode().split("\n\n")
    assert lines[-1] == ""
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def kinds(told: list[list[dict[str, Any]]]) -> list[list[str]]:
    return [[message["msg"] for message in piece] for piece in told]


async def asked_in_silence(stream: AsyncGenerator[bytes, None], queue: Events) -> asyncio.Task[Any]:
    """The next piece of a stream, which reads and waits for nothing as its page asks for "two"."""
    reading = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    queue.pending_event_ids_session[PAGE].add("two")
    return reading


async def all_of(queue: Events) -> list[list[dict[str, Any]]]:
    return [messages_in(piece) async for piece in news(queue, PAGE)]


def test_what_has_come_meanwhile_is_told_in_one_piece_up_to_the_end_of_all_events() -> None:
    async def work(queue: Events, pending: Pending[Any]) -> Any:
        for message in (
            EstimationMessage(queue_size=1),
            grown("a"),
            ended("one"),
            grown("ü", "two"),
        ):
            pending.put_nowait(message)
        asyncio.get_running_loop().call_later(0.01, pending.put_nowait, ended("two"))
        return await all_of(queue)

    told = with_page(work, "one", "two")
    assert kinds(told) == [
        ["estimation", "process_generating", "process_completed", "process_generating"],
        ["process_completed"],
        ["close_stream"],
    ]
    assert told[0][3]["output"] == {"data": ["ü"]} and told[0][3]["event_id"] == "two"


def test_what_is_asked_right_after_the_last_answer_is_told_on_the_same_stream() -> None:
    async def work(queue: Events, pending: Pending[Any]) -> Any:
        pending.put_nowait(ended("one"))
        async with aclosing(news(queue, PAGE)) as stream:
            pieces = [messages_in(await anext(stream))]
            queue.pending_event_ids_session[PAGE].add("two")
            await asyncio.sleep(3 * module.LINGER)  # its answer takes longer
            pending.put_nowait(ended("two"))
            return pieces + [messages_in(piece) async for piece in stream]

    told = kinds(with_page(work, "one"))
    assert told == [["process_completed"], ["process_completed"], ["close_stream"]]


def test_of_an_event_that_has_ended_nothing_more_is_told() -> None:
    """One that was stopped ends, and then fails, since its work is gone."""

    async def work(queue: Events, pending: Pending[Any]) -> Any:
        failed = ProcessCompletedMessage(output={}, success=False, event_id="one")
        for message in (ended("one"), failed, grown("late", "one"), grown("a", "two")):
            pending.put_nowait(message)
        async with aclosing(news(queue, PAGE)) as stream:
            pieces = [messages_in(await anext(stream))]
            pending.put_nowait(failed)
            asyncio.get_running_loop().call_later(0.01, pending.put_nowait, ended("two"))
            return pieces + [messages_in(piece) async for piece in stream]

    told = kinds(with_page(work, "one", "two"))
    assert told == [
        ["process_completed", "process_generating"], ["process_completed"], ["close_stream"]
    ]  # fmt: skip


def test_what_is_asked_as_the_stream_would_end_keeps_it_open() -> None:
    async def work(queue: Events, pending: Pending[Any]) -> Any:
        pending.put_nowait(ended("one"))
        async with aclosing(news(queue, PAGE)) as stream:
            await anext(stream)
            alive = messages_in(await (await asked_in_silence(stream, queue)))
            pending.put_nowait(ended("two"))
            return [alive, *[messages_in(piece) async for piece in stream]]

    told = kinds(with_page(work, "one"))
    assert told == [["heartbeat"], ["process_completed"], ["close_stream"]]


def test_each_message_is_as_gradio_tells_it() -> None:
    told = EstimationMessage(rank=1, queue_size=2, rank_eta=0.5, event_id="one")

    async def work(queue: Events, pending: Pending[Any]) -> Any:
        for message in (told, grown("a"), ended()):
            pending.put_nowait(message)
        return await all_of(queue)

    (estimated, growing, completed), (closing,) = with_page(work, "one")
    assert estimated == json.loads(told.model_dump_json())
    assert growing == json.loads(grown("a").model_dump_json())
    assert completed == json.loads(ended().model_dump_json())
    assert closing == json.loads(CloseStreamMessage().model_dump_json())


def test_a_silent_stream_says_that_it_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE", 0.01)

    async def work(queue: Events, pending: Pending[Any]) -> Any:
        async with aclosing(news(queue, PAGE)) as stream:
            return messages_in(await anext(stream))

    (message,) = with_page(work, "one")
    assert message["msg"] == "heartbeat"


def test_who_leaves_ends_what_is_under_way() -> None:
    async def work(queue: Events, pending: Pending[Any]) -> Any:
        event = Event(PAGE, SimpleNamespace(concurrency_id="x"), SimpleNamespace(), None)  # type: ignore[arg-type]
        queue.active_jobs = [[event]]
        pending.put_nowait(grown("a"))
        async with aclosing(news(queue, PAGE)) as stream:
            await anext(stream)
            assert event.alive
        return event.alive

    assert with_page(work, "one") is False


def test_who_leaves_while_nothing_is_under_way_takes_nothing_along_that_is_asked_then() -> None:
    async def work(queue: Events, pending: Pending[Any]) -> Any:
        pending.put_nowait(ended("one"))
        async with aclosing(news(queue, PAGE)) as stream:
            await anext(stream)
            leaving = await asked_in_silence(stream, queue)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
        pending.put_nowait(ended("two"))
        return await all_of(queue)

    (told,), _ = with_page(work, "one")
    assert told["msg"] == "process_completed" and told["event_id"] == "two"


def test_a_page_that_is_not_known_is_told_so_and_a_server_that_ends_tells_everybody() -> None:
    async def unknown(queue: Events, pending: Pending[Any]) -> Any:
        del queue.pending_messages_per_session[PAGE]
        return await all_of(queue)

    ((message,),) = with_page(unknown)
    assert message["msg"] == "unexpected_error" and message["session_not_found"]

    async def stopped(queue: Events, pending: Pending[Any]) -> Any:
        queue.close()
        pending.put_nowait(grown("a"))
        return await all_of(queue)

    ((message,),) = with_page(stopped, "one")
    assert message["msg"] == "unexpected_error" and not message["session_not_found"]


def served() -> tuple[gr.Blocks, TestClient]:
    """A page of one event, and who asks it."""
    with gr.Blocks() as page:
        gr.Textbox().change(lambda: None)
    app = FastAPI()
    tell(app, page)
    attend(app)
    return page, TestClient(app)


def test_an_event_that_the_page_has_not_is_refused() -> None:
    page, client = served()
    (known,) = page.fns
    for asked in (
        {"fn_index": known + 1, "session_hash": PAGE},
        {"session_hash": PAGE},
        {"fn_index": known},
    ):
        answer = client.post("/gradio_api/queue/join", json={"data": [], **asked})
        assert answer.status_code == 400 and "load it again" in answer.text
    asked = {"data": [], "fn_index": known, "session_hash": PAGE}
    answer = client.post("/gradio_api/queue/join", json=asked)
    assert answer.json()["event_id"] in page._queue.event_ids_to_events


def test_an_event_of_what_was_drawn_on_a_page_is_that_pages_alone() -> None:
    page, client = served()
    (event,) = page.fns.values()
    page.state_holder[PAGE].blocks_config.fns[77] = event
    for session, status in ((PAGE, 200), ("another page", 400)):
        asked = {"data": [], "fn_index": 77, "session_hash": session}
        answer = client.post("/gradio_api/queue/join", json=asked)
        assert answer.status_code == status, answer.text


def test_who_asks_while_the_end_of_the_stream_is_on_its_way_hears_of_it_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Until the page has read the end it takes its stream for open, and would read nothing more."""
    monkeypatch.setattr(events, "END_SECONDS", 0.3)

    async def work(queue: Events, pending: Pending[Any]) -> float:
        pending.put_nowait(ended("one"))
        await all_of(queue)
        begun = time.monotonic()
        await queue.ended(PAGE)
        return time.monotonic() - begun

    assert with_page(work, "one") > 0.2

    page, client = served()
    queue, (known,) = page._queue, page.fns
    queue._ending.add(PAGE)
    threading.Timer(0.3, queue._ending.discard, [PAGE]).start()
    asked = {"data": [], "fn_index": known, "session_hash": PAGE}
    assert client.post("/gradio_api/queue/join", json=asked).status_code == 200
    assert PAGE not in queue._ending
