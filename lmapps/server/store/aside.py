"""Calls of the store -> the same in threads, so that a slow database keeps nobody else waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

from lmapps.errors import DatabaseFailed
from lmapps.server.store.database import in_one_go

P = ParamSpec("P")
T = TypeVar("T")

AT_ONCE = 16
"""Calls that wait for the database at the same time; further ones wait for these."""
ANSWER_SECONDS = 10.0
"""However slow a database is, whoever asks it is told after so long."""
_threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="store")


async def in_time(answer: Awaitable[T]) -> T:
    """What a database answers. Raises `DatabaseFailed` where it takes too long: whoever asked is
    told, though the thread that waits may go on for a while."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await answer
    except TimeoutError:
        told = f"the database has not answered for {ANSWER_SECONDS:g} seconds"
        raise DatabaseFailed(told) from None


async def at_the_door(call: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
    """What a call returns that finds out who asks, or what they may: in the threads that the server
    keeps for that."""
    return await in_time(asyncio.to_thread(call, *args, **named))


async def aside(call: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
    """What the call returns; meanwhile the event loop goes on with everybody's streams."""
    return await in_time(_elsewhere(call, *args, **named))


async def _elsewhere(call: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
    """The same, however long it takes."""
    call_here = partial(copy_context().run, partial(call, *args, **named))
    return await asyncio.get_running_loop().run_in_executor(_threads, call_here)


class InOrder:
    """Calls aside, one after the other. One that was begun comes to its end, whoever has left."""

    def __init__(self) -> None:
        self._last: asyncio.Future[None] | None = None

    @property
    def is_busy(self) -> bool:
        return self._last is not None and not self._last.done()

    def begin(self, call: Callable[[], None]) -> asyncio.Task[None]:
        """Call it after those before. What it raises is told to whoever awaits it, if anybody."""
        task = asyncio.create_task(self._after(self._last, call))
        self.follow(task)
        return task

    async def end(self, call: Callable[[], None]) -> None:
        """Call it after those before, and wait for it."""
        await in_time(asyncio.shield(self.begin(call)))

    def follow(self, task: asyncio.Future[None]) -> None:
        """What comes next comes after this one too."""
        self._last = task
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _after(self, before: asyncio.Future[None] | None, call: Callable[[], None]) -> None:
        if before is not None:
            await asyncio.wait([before])
        await _elsewhere(call)


class Together:
    """Calls aside that may wait a little: those that came meanwhile are made in one go, since each
    transaction and each thread takes time from everybody's streams."""

    def __init__(self) -> None:
        self._calls: dict[InOrder, Callable[[], None]] = {}
        self._making: asyncio.Task[None] | None = None

    def put(self, order: InOrder, call: Callable[[], None], seconds: float) -> None:
        """Make it after at most so long, in its order; a later one of that takes its place."""
        self._calls[order] = call
        if self._making is None or self._making.done():
            self._making = asyncio.create_task(self._make(seconds))

    def drop(self, order: InOrder) -> None:
        """Do not make the one that waits."""
        self._calls.pop(order, None)

    async def _make(self, seconds: float) -> None:
        while self._calls:
            await asyncio.sleep(seconds)
            ready = {order: call for order, call in self._calls.items() if not order.is_busy}
            self._calls = {o: call for o, call in self._calls.items() if o not in ready}
            if ready:
                made = asyncio.ensure_future(_elsewhere(_all, list(ready.values())))
                for order in ready:
                    order.follow(made)


def _all(calls: Sequence[Callable[[], None]]) -> None:
    """One that fails is made up for by the next of its order."""
    with in_one_go():
        for call in calls:
            with suppress(Exception):
                call()
