"""A reply under way -> an HTTP answer, which ends when nobody waits for it any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from lmapps.errors import LmappsError
from lmapps.server.api.protocol import server_sent

T = TypeVar("T")


class Disconnected(LmappsError):
    """The client has gone."""

    status = 499


async def started(items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The same items, once the first is there: what raises does so here."""
    first = await anext(items)

    async def again() -> AsyncGenerator[T, None]:
        async with aclosing(items):
            yield first
            async for item in items:
                yield item

    return again()


class Events(StreamingResponse):
    """Server-sent events, ended by the word that OpenAI's clients expect.

    They are closed with the answer: Starlette leaves that to the garbage collector where somebody
    goes who has not taken the last one.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[dict[str, Any] | str, None]) -> None:
        self._lines = _lines(events)
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(self._lines, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._lines):
            await super().__call__(scope, receive, send)


async def _lines(
    events: AsyncGenerator[dict[str, Any] | str, None],
) -> AsyncGenerator[str, None]:
    async with aclosing(server_sent(events)) as lines:
        async for line in lines:
            yield line
    yield "data: [DONE]\n\n"


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work, which is cancelled at once when nobody waits for it any more.

    Raises `Disconnected` then: an answer that nobody gets. The body must have been read.
    """
    task, leaving = asyncio.create_task(work), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        task.cancel()
        await asyncio.wait({task})
        raise Disconnected("nobody waits for the reply any more")
    finally:
        task.cancel()
        leaving.cancel()


async def _gone(request: Request) -> None:
    """Until the client has gone: after the body that is all that a server still tells."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def merged(
    streams: Sequence[AsyncGenerator[T, None]],
) -> AsyncGenerator[tuple[int, T], None]:
    """What several streams give, as it comes, each with the number of its stream."""
    if len(streams) == 1:  # the usual case, without a task for each item
        async with aclosing(streams[0]):
            async for item in streams[0]:
                yield 0, item
        return
    coming = {asyncio.ensure_future(anext(one)): number for number, one in enumerate(streams)}
    try:
        while coming:
            done, _ = await asyncio.wait(coming, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=coming.__getitem__):
                number = coming.pop(task)
                try:
                    item = task.result()
                except StopAsyncIteration:
                    continue
                coming[asyncio.ensure_future(anext(streams[number]))] = number
                yield number, item
    finally:
        for task in coming:
            task.cancel()
        await asyncio.gather(*coming, return_exceptions=True)
        for one in streams:
            await one.aclose()
