"""Deltas from the engine's thread -> those who wait for them in an event loop.

A loop is woken once for all deltas of a step, not once for each: every wake-up is a call of the
system, at which another thread may take the interpreter and keep the engine waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from lmapps.engine.request import Deliver, Delta

Letter = tuple["asyncio.Queue[Delta]", Delta]


class Mail:
    """What one engine has to say. Used by its thread alone, but for `box`."""

    def __init__(self) -> None:
        self._letters: dict[asyncio.AbstractEventLoop, list[Letter]] = {}

    def box(self, deltas: asyncio.Queue[Delta]) -> Deliver:
        """A function that puts deltas into a queue of the running loop, once they are sent."""
        loop = asyncio.get_running_loop()

        def deliver(delta: Delta) -> None:
            if loop.is_closed():
                raise RuntimeError("the reader's event loop is closed")
            self._letters.setdefault(loop, []).append((deltas, delta))

        return deliver

    def send(self) -> None:
        """All that was delivered since the last time."""
        letters, self._letters = self._letters, {}
        for loop, some in letters.items():
            try:
                loop.call_soon_threadsafe(_put, some)
            except RuntimeError:  # closed since: nobody is there any more
                continue


def _put(letters: Sequence[Letter]) -> None:
    for deltas, delta in letters:
        deltas.put_nowait(delta)
