"""uvicorn's connections, with an end to every wait: for a request, and for somebody who reads.

A browser or a program sends its request at once and reads what it asked for. Who opens
connections and says nothing, or a byte now and then (slow-loris), or does not read, is cut off,
and when there are too many connections the one that has waited longest makes room.
"""

from __future__ import annotations

import asyncio
import logging
import time

from uvicorn.protocols.http.h11_impl import H11Protocol

LOG = logging.getLogger("lmapps.requests")
HEAD_SECONDS = 10.0
"""How long a connection may take to say what it wants."""
STALL_SECONDS = 60.0
"""How long an answer waits for somebody to read on."""
MOST_HEAD_BYTES = 65_536
"""The longest request line and headers."""
SPARE_FILES = 200
"""Files that the process needs beside its connections."""


class Connection(H11Protocol):
    """One connection. `most` is set once for all, before the server starts."""

    most = 4000
    """So many at once; see `most_connections`."""
    _late: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        super().connection_made(transport)
        self.since = time.monotonic()
        self._expect()
        if len(self.connections) > self.most:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.is_idle:
            self._expect()
        else:
            self._cancel()

    def on_response_complete(self) -> None:
        self.since = time.monotonic()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(STALL_SECONDS, self._cut, "nobody reads the answer")

    def resume_writing(self) -> None:
        if self._stalled:
            self._stalled.cancel()
            self._stalled = None
        super().resume_writing()

    @property
    def is_idle(self) -> bool:
        """Whether nobody is being answered on it."""
        return self.cycle is None or self.cycle.response_complete

    def _expect(self) -> None:
        """From now on a whole head must arrive in time, however many bytes come by then."""
        if self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self._cut, "no request came")

    def _cancel(self) -> None:
        if self._late:
            self._late.cancel()
            self._late = None

    def _make_room(self) -> None:
        idle = [one for one in self.connections if isinstance(one, Connection) and one.is_idle]
        oldest = min(idle, key=lambda one: one.since, default=self)
        oldest._cut("too many connections")

    def _cut(self, reason: str) -> None:
        self._late = None
        if not self.transport.is_closing():
            LOG.debug("connection closed", extra={"fields": {"reason": reason}})
            self.transport.abort()


def most_connections() -> int:
    """As many as the process may open files for, which is made as high as the system allows."""
    try:
        import resource
    except ImportError:  # Windows
        return Connection.most
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(50, wanted - SPARE_FILES)
