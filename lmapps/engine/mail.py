"""Deltas from the engine's thread -> those who wait for them in an event loop.

A loop is woken once for all deltas of a step, not once for each: every wake-up is a call of the
system, at which another thread may take the interpreter and keep the engine waiting. Where many
read, each gets several tokens in one piece, so that the loop has time for whoever has just asked;
and a reader who is behind gets all that has come since in one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from lmapps.engine.request import Deliver, Delta

PIECES_A_SECOND = 1000
"""All readers together get no more of their replies' pieces than that, each its share."""
PLACE_SECONDS = 0.5
"""Each of those who wait is told their place no more often than that."""


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
    """What one engine has to say. Used by its thread alone.

    clock  seconds from any beginning; a test may count something else
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._letters: dict[Letter, Delta] = {}

    def to(self, box: Box) -> Deliver:
        """A function that puts deltas into a box, once they are sent."""
        letter = Letter(box)

        def deliver(delta: Delta) -> None:
            if box.loop.is_closed():
                raise RuntimeError("the reader's event loop is closed")
            before = self._letters.get(letter)
            self._letters[letter] = before.then(delta) if before else delta

        return deliver

    def send(self) -> None:
        """All that is due of what was delivered: the beginning of a reply and its end at once."""
        now, apart = self._clock(), len(self._letters) / PIECES_A_SECOND
        due = dict[asyncio.AbstractEventLoop, list[tuple[Box, Delta]]]()
        for letter, delta in list(self._letters.items()):
            if letter.is_due(delta, now, apart):
                due.setdefault(letter.box.loop, []).append((letter.box, delta))
                del self._letters[letter]
        for loop, some in due.items():
            try:
                loop.call_soon_threadsafe(_put, some)
            except RuntimeError:  # closed since: nobody is there any more
                continue


class Letter:
    """To one reader."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self._sent = self._placed = float("-inf")
        """When the last piece of the reply was, and when the last place in the queue."""

    def is_due(self, delta: Delta, now: float, apart: float) -> bool:
        """Whether it is sent now: pieces of the reply `apart` seconds or more after each other."""
        if delta.finish or delta.read:
            return True
        if delta.ids:
            if now - self._sent < apart:
                return False
            self._sent = now
        elif delta.position is not None:
            if now - self._placed < PLACE_SECONDS:
                return False
            self._placed = now
        return True


def _put(letters: Sequence[tuple[Box, Delta]]) -> None:
    for box, delta in letters:
        box.put(delta)
