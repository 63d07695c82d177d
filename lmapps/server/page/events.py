"""Gradio's queue of events -> the same, which keeps what a page is told until the page has read it.

Gradio keeps it for 2000 pages and forgets the oldest for one more, also one that is reading: then
its queue ends, for everybody. What is told to a page that never reads is kept for ever, and its
events go on.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr
from gradio.queueing import Queue

from lmapps.engine.turns import User
from lmapps.errors import Busy
from lmapps.server.gate.log import NAME, REQUEST
from lmapps.server.who import who

PATIENCE_SECONDS = 60.0
"""So long a page that has asked may take to begin to read: a browser does so at once."""
MOST_UNREAD = 1000
"""Pages of one address or account that have asked and do not read; of one more the oldest is
forgotten."""
MOST_EVENTS = 500
"""Events of one page that it has not read to their end."""
END_SECONDS = 0.5
"""So long the end of a stream may be on its way to a page."""
LOOK_SECONDS = 0.05


class Events(Queue):
    """The events of all pages. One that reads is never forgotten, and of one that has nothing to
    read nothing is kept."""

    def __init__(self, page: gr.Blocks) -> None:
        super().__init__(
            live_updates=True, concurrency_count=page.max_threads, update_intervals=1,
            max_size=None, blocks=page, default_concurrency_limit=None,
        )  # fmt: skip
        self.pending_messages_per_session = {}  # type: ignore[assignment]
        self._readers = Counter[str]()
        self._ending = set[str]()
        self._unread = dict[str, tuple[User, float]]()
        """Pages that have asked and do not read: whose and since when, the oldest first."""

    async def push(self, body: Any, request: Any, username: str | None) -> Any:
        """What a page asks for. Raises `InputError` and `Busy`."""
        name, asks = body.session_hash, who(request).turns
        if len(self.pending_event_ids_session.get(name, ())) >= MOST_EVENTS:
            raise Busy(
                "this page has asked for {count} things that it did not read", count=MOST_EVENTS
            )
        told = await super().push(body, request, username)
        self._expect(name, asks)
        await self._make_room(asks)
        return told

    def send_message(self, event: Any, event_message: Any) -> None:
        """To a page that is there."""
        if event.session_hash in self.pending_messages_per_session:
            super().send_message(event, event_message)

    async def process_events(self, events: Any, batch: bool, begin_time: float, fn: Any) -> None:
        """In a task of its own, which is about the request that asked."""
        REQUEST.set(events[0].request.scope.get(NAME, ""))
        await super().process_events(events, batch, begin_time, fn)

    @contextmanager
    def reading(self, name: str, asks: User) -> Iterator[None]:
        """As long as a page reads."""
        self._readers[name] += 1
        self._unread.pop(name, None)
        try:
            yield
        finally:
            self._readers[name] -= 1
            if not self._readers[name]:
                del self._readers[name]
                self._settle(name, asks)

    def end(self, name: str) -> None:
        """A page is told that its stream ends: it takes it for open as long as that is on the way,
        and would never read what comes of a thing that it knows by then to be asked for."""
        self._ending.add(name)
        asyncio.get_running_loop().call_later(END_SECONDS, self._ending.discard, name)

    async def ended(self, name: str) -> None:
        """Wait until a page has read that its stream ends, if it does."""
        while name in self._ending:
            await asyncio.sleep(LOOK_SECONDS)

    async def forget(self, name: str) -> None:
        """A page that has left, and what it has asked for."""
        await self.clean_events(session_hash=name)
        self._drop(name)

    def _settle(self, name: str, asks: User) -> None:
        """Nobody reads any more: what was asked for in the last moment is waited for."""
        if self.pending_event_ids_session.get(name):
            self._expect(name, asks)
        else:
            self._drop(name)

    def _expect(self, name: str, asks: User) -> None:
        if name not in self._readers:
            self._unread.setdefault(name, (asks, time.monotonic()))

    async def _make_room(self, asks: User) -> None:
        """Forget who has not begun to read in time, and the oldest of somebody who has too many."""
        late = time.monotonic() - PATIENCE_SECONDS
        over = [name for name, (_, since) in self._unread.items() if since < late]
        theirs = [name for name, (whose, _) in self._unread.items() if whose == asks]
        for name in {*over, *theirs[:-MOST_UNREAD]}:
            await self.forget(name)

    def _drop(self, name: str) -> None:
        self._unread.pop(name, None)
        self.pending_messages_per_session.pop(name, None)
        self.pending_event_ids_session.pop(name, None)
