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
from gradio.queueing import Queue
from gradio.server_messages import (
    CloseStreamMessage,
    HeartbeatMessage,
    ProcessCompletedMessage,
    UnexpectedErrorMessage,
)
from pydantic import BaseModel

from lmapps.errors import Busy, InputError
from lmapps.server.page.languages import later, word

STOPPED = later("The server has stopped. What was written until then is kept.")
SILENCE = 10.0
"""Seconds without a message after which a sign of life is sent: proxies end a silent stream."""


def tell(app: FastAPI, page: gr.Blocks) -> None:
    """Answer the page before Gradio does."""
    queue = page._queue

    @app.post("/gradio_api/queue/join", include_in_schema=False)
    async def join(body: PredictBody, request: Request) -> dict[str, Any]:
        if body.session_hash is None or body.fn_index not in page.fns:
            raise InputError(f"this page has no event {body.fn_index}: load it again")
        asked = PredictBodyInternal(**body.model_dump(), request=request)
        is_in, told, _ = await queue.push(asked, request, None)
        if not is_in:
            raise Busy(str(told))
        return {"event_id": told}

    @app.get("/gradio_api/queue/data", include_in_schema=False)
    async def data(session_hash: str) -> StreamingResponse:
        return StreamingResponse(news(queue, session_hash), media_type="text/event-stream")


async def news(queue: Queue, session: str) -> AsyncGenerator[bytes, None]:
    """Until all events of the page have ended. Who leaves before ends them."""
    is_open = True
    try:
        while is_open:
            messages = await _next(queue, session)
            is_open = all(_goes_on(queue, session, message) for message in messages)
            if not is_open and isinstance(messages[-1], ProcessCompletedMessage):
                messages.append(CloseStreamMessage())
            yield b"".join(map(_line, messages))
    finally:
        queue.pending_messages_per_session.pop(session, None)
        if is_open:
            await queue.clean_events(session_hash=session)
        queue.pending_event_ids_session.pop(session, None)


async def _next(queue: Queue, session: str) -> list[Any]:
    """All the messages that there are, once there is one."""
    pending = queue.pending_messages_per_session.get(session)
    if pending is None:
        return [UnexpectedErrorMessage(message="404: Not Found", session_not_found=True)]
    messages = list[Any]()
    try:
        async with asyncio.timeout(SILENCE):
            messages.append(await pending.get())
    except TimeoutError:
        messages.append(HeartbeatMessage())
    while not pending.empty():
        messages.append(pending.get_nowait())
    if queue.stopped:
        return [UnexpectedErrorMessage(message=word(STOPPED))]
    return messages


def _goes_on(queue: Queue, session: str, message: BaseModel) -> bool:
    """Whether there may be more after it."""
    if isinstance(message, ProcessCompletedMessage) and message.event_id:
        under_way = queue.pending_event_ids_session.get(session, set())
        under_way.discard(message.event_id)
        return bool(under_way)
    return not isinstance(message, UnexpectedErrorMessage)


def _line(message: BaseModel) -> bytes:
    return b"data: " + orjson.dumps(vars(message), default=_plain) + b"\n\n"


def _plain(value: Any) -> Any:
    return value.model_dump() if isinstance(value, BaseModel) else str(value)
