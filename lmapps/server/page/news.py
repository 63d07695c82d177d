"""What an open page asks of Gradio's events, and what these have to say to it.

The two addresses do the same as Gradio's own, which asks two threads who somebody is before an
event, and before each message whether anybody still reads; makes a task to wait for the message,
copies it, and sends it alone through its layers. Where many people stream, whoever has just asked
waits for all that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import gradio as gr
import orjson
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from gradio.data_classes import PredictBody, PredictBodyInternal
from gradio.server_messages import (
    CloseStreamMessage,
    HeartbeatMessage,
    ProcessCompletedMessage,
    UnexpectedErrorMessage,
)
from pydantic import BaseModel

from lmapps.engine.turns import User
from lmapps.errors import Busy, InputError
from lmapps.server.page.events import Events
from lmapps.server.page.languages import later, word
from lmapps.server.who import who

STOPPED = later("The server has stopped. What was written until then is kept.")
SILENCE = 10.0
"""Seconds without a message after which a sign of life is sent: proxies end a silent stream."""
LINGER = 0.5
"""Seconds that a page which waits for nothing goes on reading: right after an answer people and
controls go on. Less than a server waits that stops: a stream that it breaks the page takes for open
from then on."""


def tell(app: FastAPI, page: gr.Blocks) -> None:
    """Answer the page before Gradio does. Whether it has such an event `faults.py` finds out."""
    queue = page._queue = Events(page)

    @app.post("/gradio_api/queue/join", include_in_schema=False)
    async def join(body: PredictBody, request: Request) -> dict[str, Any]:
        if not body.session_hash or body.fn_index is None:
            raise InputError(f"this page has no event {body.fn_index}: load it again")
        asked = PredictBodyInternal(**body.model_dump(), request=request)
        is_in, told, _ = await queue.push(asked, request, None)
        if not is_in:
            raise Busy(str(told))
        await queue.ended(body.session_hash)
        return {"event_id": told}

    @app.get("/gradio_api/queue/data", include_in_schema=False)
    async def data(session_hash: str, request: Request) -> StreamingResponse:
        told = news(queue, session_hash, who(request).turns)
        return StreamingResponse(told, media_type="text/event-stream")


async def news(queue: Events, session: str, asks: User = None) -> AsyncGenerator[bytes, None]:
    """Until all events of the page have ended, and a while longer. Who leaves before ends them.

    asks  whose page it is
    """
    waits = True
    with queue.reading(session, asks):
        try:
            while True:
                told = await _next(queue, session, SILENCE if waits else LINGER)
                messages = _in_time(told, queue.pending_event_ids_session.get(session, set()))
                if not messages:
                    continue
                waited, waits = waits, bool(queue.pending_event_ids_session.get(session))
                if not waited and not waits and isinstance(messages[0], HeartbeatMessage):
                    queue.end(session)
                    yield _line(CloseStreamMessage())
                    return
                yield b"".join(map(_line, messages))
                if any(isinstance(message, UnexpectedErrorMessage) for message in messages):
                    return
        finally:
            if waits:
                await queue.forget(session)


async def _next(queue: Events, session: str, seconds: float) -> list[Any]:
    """All the messages that there are, once there is one; a sign of life where none comes."""
    pending = queue.pending_messages_per_session.get(session)
    if pending is None:
        return [UnexpectedErrorMessage(message="404: Not Found", session_not_found=True)]
    messages = list[Any]()
    try:
        async with asyncio.timeout(seconds):
            messages.append(await pending.get())
    except TimeoutError:
        messages.append(HeartbeatMessage())
    while not pending.empty():
        messages.append(pending.get_nowait())
    if queue.stopped:
        return [UnexpectedErrorMessage(message=word(STOPPED))]
    return messages


def _in_time(told: list[Any], waited: set[str]) -> list[Any]:
    """Without what is told of events that have ended: one that was stopped ends, and then fails,
    since its work is gone. What ends with these messages is `waited` for no more."""
    messages = list[Any]()
    for message in told:
        event = getattr(message, "event_id", None)
        if event is None or event in waited:
            messages.append(message)
        if isinstance(message, ProcessCompletedMessage):
            waited.discard(event or "")
    return messages


def _line(message: BaseModel) -> bytes:
    return b"data: " + orjson.dumps(vars(message), default=_plain) + b"\n\n"


def _plain(value: Any) -> Any:
    return value.model_dump() if isinstance(value, BaseModel) else str(value)
