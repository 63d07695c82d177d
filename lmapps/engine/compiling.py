"""Work on a regex or schema that somebody sent -> two threads of its own, and a limit of time.

A grammar can be made to take long. Neither the event loop nor the threads that everything else
shares wait for it.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import cache
from typing import Any, TypeVar

from lmapps.errors import Busy, DecodingError

THREADS = 2
MOST_WAITING = 64
LIMIT = 10.0
"""Seconds after which one is given up; its thread is free when the library comes back."""

GRAMMARS = {"regex", "json_schema", "response_format"}
"""Settings, ours and OpenAI's, that a reply is held to."""

T = TypeVar("T")
Job = tuple[Callable[[], Any], "Future[Any]"]


async def settings_in_time(read: Callable[[], T], given: Mapping[str, Any]) -> T:
    """What `read` makes of the settings that were given: a regex or schema may take time."""
    return await in_time(read) if given.keys() & GRAMMARS else read()


async def in_time(work: Callable[[], T]) -> T:
    """What the work returns. Raises what it raises, `DecodingError` where it takes too long, and
    `Busy` where too many wait for it."""
    done: Future[T] = Future()
    try:
        _jobs().put_nowait((work, done))
    except queue.Full:
        raise Busy(
            "{count} regexes and schemas are waiting already: try again in a moment",
            count=MOST_WAITING,
        ) from None
    try:
        return await asyncio.wait_for(asyncio.wrap_future(done), LIMIT)
    except TimeoutError:
        raise DecodingError(
            "the regex or schema is too complex: it was not read within {seconds:g} seconds",
            seconds=LIMIT,
        ) from None


@cache
def _jobs() -> queue.Queue[Job]:
    """What waits; its threads are daemons, so that none keeps the process from ending."""
    jobs: queue.Queue[Job] = queue.Queue(MOST_WAITING)
    for number in range(THREADS):
        name = f"grammars {number}"
        threading.Thread(target=_go_on, args=[jobs], daemon=True, name=name).start()
    return jobs


def _go_on(jobs: queue.Queue[Job]) -> None:
    while True:
        work, done = jobs.get()
        if not done.set_running_or_notify_cancel():  # nobody waits for it any more
            continue
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)
