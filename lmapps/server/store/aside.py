"""Calls of the store -> the same in threads, so that a slow database keeps nobody else waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

AT_ONCE = 16
"""Calls that wait for the database at the same time; further ones wait for these."""
_threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="store")


async def aside(call: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
    """What the call returns; meanwhile the event loop goes on with everybody's streams."""
    call_here = partial(copy_context().run, partial(call, *args, **named))
    return await asyncio.get_running_loop().run_in_executor(_threads, call_here)


class InOrder:
    """Calls aside, one after the other. One that was begun comes to its end, whoever has left."""

    def __init__(self) -> None:
        self._last: asyncio.Task[None] | None = None

    @property
    def is_busy(self) -> bool:
        return self._last is not None and not self._last.done()

    def begin(self, call: Callable[[], None]) -> asyncio.Task[None]:
        """Call it after those before. What it raises is told to whoever awaits it, if anybody."""
        self._last = asyncio.create_task(self._after(self._last, call))
        self._last.add_done_callback(lambda done: done.cancelled() or done.exception())
        return self._last

    async def end(self, call: Callable[[], None]) -> None:
        """Call it after those before, and wait for it."""
        await asyncio.shield(self.begin(call))

    async def _after(self, before: asyncio.Task[None] | None, call: Callable[[], None]) -> None:
        if before is not None:
            await asyncio.wait([before])
        await aside(call)
