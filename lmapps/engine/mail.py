"""Deltas from the engine's thread -> those who wait for them in an event loop.

A loop is woken once for all deltas of a step, not once for each: every wake-up is a call of the
system, at which another thread may take the interpreter and keep the engine waiting. And a reader
who is behind gets all that has come since in one piece, so that a busy loop catches up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from lmapps.engine.request import Deliver, Delta


class Box:
    """What one reader has not fetched yet. Used in its event loop alone."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._delta: Delta | None = None
        self._is_full = asyncio.Event()

    def put(self, delta: Delta) -> None:
        self._delta = self._delta.then(delta) if self._delta else delta
        self._is_full.set()

    async def get(self) -> Delta:
        """Waits until there is something."""
        await self._is_full.wait()
        delta, self._delta = self._delta, None
        self._is_full.clear()
        assert delta is not None
        return delta


class Mail:
    """What one engine has to say. Used by its thread alone."""

    def __init__(self) -> None:
        self._letters: dict[asyncio.AbstractEventLoop, list[tuple[Box, Delta]]] = {}

    def to(self, box: Box) -> Deliver:
        """A function that puts deltas into a box, once they are sent."""

        def deliver(delta: Delta) -> None:
            if box.loop.is_closed():
                raise RuntimeError("the reader's event loop is closed")
            self._letters.setdefault(box.loop, []).append((box, delta))

        return deliver

    def send(self) -> None:
        """All that was delivered since the last time."""
        letters, self._letters = self._letters, {}
        for loop, some in letters.items():
            try:
                loop.call_soon_threadsafe(_put, some)
            except RuntimeError:  # closed since: nobody is there any more
                continue


def _put(letters: Sequence[tuple[Box, Delta]]) -> None:
    for box, delta in letters:
        box.put(delta)
