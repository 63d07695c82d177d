"""Work on a regex or schema that somebody sent -> two threads of its own, and a limit of time.

A grammar can be made to take long. Neither the event loop nor the threads that everything else
shares wait for it; of one person's, one at a time is worked on.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Generic, TypeVar

from lmapps.engine.turns import User, next_place, owner_of, share
from lmapps.errors import Busy, DecodingError

THREADS = 2
MOST_WAITING = 64
LIMIT = 10.0
"""Seconds after which one is given up, from when it is begun; its thread is free when the library
comes back. Nobody waits longer than that for it to be begun."""

GRAMMARS = {"regex", "json_schema", "response_format"}
"""Settings, ours and OpenAI's, that a reply is held to."""
ANYTHING = (None, {"type": "text"})
"""Their values that hold it to nothing."""

T = TypeVar("T")


async def settings_in_time(read: Callable[[], T], given: Mapping[str, Any], user: User = None) -> T:
    """What `read` makes of the settings that were given: a regex or schema may take time."""
    if all(given.get(name) in ANYTHING for name in GRAMMARS):
        return read()
    return await in_time(read, user)


async def in_time(work: Callable[[], T], user: User = None) -> T:
    """What the work returns. Raises what it raises, `DecodingError` where it takes too long, and
    `Busy` where too much waits, all in all or of the user's owner, or it is not begun in time."""
    job = Job(work, user)
    _desk().put(job)
    try:
        await asyncio.wait_for(asyncio.wrap_future(job.begun), LIMIT)
    except TimeoutError:
        raise Busy(
            "other regexes and schemas take long: this one was not begun within {seconds:g} "
            "seconds, try again in a moment",
            seconds=LIMIT,
        ) from None
    try:
        return await asyncio.wait_for(asyncio.wrap_future(job.done), LIMIT)
    except TimeoutError:
        raise DecodingError(
            "the regex or schema is too complex: it was not read within {seconds:g} seconds",
            seconds=LIMIT,
        ) from None


@dataclass
class Job(Generic[T]):
    """Some work, and whose. Who gives up waiting cancels `begun`."""

    work: Callable[[], T]
    user: User
    begun: Future[None] = field(default_factory=Future)
    done: Future[T] = field(default_factory=Future)

    def run(self) -> None:
        if not self.begun.set_running_or_notify_cancel():
            return
        self.done.set_running_or_notify_cancel()  # from here on nobody can cancel it
        self.begun.set_result(None)
        try:
            self.done.set_result(self.work())
        except BaseException as error:
            self.done.set_exception(error)


class Desk:
    """What waits, and the threads that take it up, in turn. They are daemons, so that none keeps
    the process from ending."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[Job[Any]] = []
        self._held = Counter[User]()
        for number in range(THREADS):
            name = f"grammars {number}"
            threading.Thread(target=self._go_on, daemon=True, name=name).start()

    def put(self, job: Job[Any]) -> None:
        """Raises `Busy` where there is no place for one more."""
        with self._changed:
            self._waiting = [one for one in self._waiting if not one.begun.cancelled()]
            owners = [owner_of(one.user) for one in self._waiting]
            mine = owners.count(owner_of(job.user))
            if len(owners) >= MOST_WAITING:
                raise Busy(
                    "{count} regexes and schemas are waiting already: try again in a moment",
                    count=len(owners),
                )
            if job.user is not None and mine >= share(MOST_WAITING):
                raise Busy(
                    "{count} of your regexes and schemas are waiting already: try again in a "
                    "moment",
                    count=mine,
                )
            self._waiting.append(job)
            self._changed.notify_all()

    def _go_on(self) -> None:
        while True:
            job = self._taken()
            job.run()
            with self._changed:
                self._held[job.user] -= 1
                self._changed.notify_all()  # who may go on now may be another thread's

    def _taken(self) -> Job[Any]:
        """The job whose turn it is, once there is one."""
        with self._changed:
            while (place := self._next()) is None:
                self._changed.wait()
            job = self._waiting.pop(place)
            self._held[job.user] += 1
            return job

    def _next(self) -> int | None:
        """One for each owner, of whom nobody can come to hold both threads."""
        return next_place([job.user for job in self._waiting], self._held, {}, 1)


@cache
def _desk() -> Desk:
    return Desk()
