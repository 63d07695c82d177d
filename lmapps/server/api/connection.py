"""A reply under way -> an HTTP answer, which ends when nobody waits for it any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse

from lmapps.errors import LmappsError
from lmapps.server.api.protocol import server_sent

T = TypeVar("T")


class Disconnected(LmappsError):
    """The client has gone."""

    status = 499


DISCONNECT_SECONDS = 0.1
"""How often a request that does not stream is asked whether anybody still waits for it."""


async def started(items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The same items, once the first is there: what raises does so here."""
    first = await anext(items)

    async def again() -> AsyncGenerator[T, None]:
        async with aclosing(items):
            yield first
            async for item in items:
                yield item

    return again()


def stream_response(events: AsyncIterator[dict[str, Any] | str]) -> StreamingResponse:
    """Server-sent events, ended by the word that OpenAI's clients expect."""

    async def lines() -> AsyncIterator[str]:
        async for line in server_sent(events):
            yield line
        yield "data: [DONE]\n\n"

    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(lines(), media_type="text/event-stream", headers=headers)


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work, which is cancelled when nobody waits for it any more.

    Raises `Disconnected` then: an answer that nobody gets.
    """
    task = asyncio.create_task(work)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=DISCONNECT_SECONDS)
            if not task.done() and await request.is_disconnected():
                task.cancel()
                await asyncio.wait({task})
                raise Disconnected("nobody waits for the reply any more")
    finally:
        task.cancel()
    return await task


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
