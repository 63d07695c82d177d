"""Several servers of one model -> in which order to ask them, by how busy they are and who answers.

Each process counts for itself what it has under way; nobody else is asked how a server is. One
that failed rests: it is left out, for longer each time, until a request finds it there again.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lmapps.engine.turns import User

LOG = logging.getLogger("lmapps.engine")
FIRST_REST, LONGEST_REST = 1.0, 30.0
"""Seconds that a server rests after its first failure, and after many in a row."""
SLACK = 2
"""So many more requests than the least busy one a server may have, and still keep its people: it
has read their conversations already."""
_BETWEEN = re.compile(r",(?=https?://)", re.I)


@dataclass
class Server:
    """One of them, as this process knows it."""

    url: str
    running: int = 0
    """Requests of this process that it is answering."""
    failures: int = 0
    """In a row, up to now."""
    rests_until: float = 0.0


class Fleet:
    """The servers of one model. Used by one event loop."""

    def __init__(self, urls: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self.servers, self._clock = [Server(url.rstrip("/")) for url in urls], clock

    @property
    def resting(self) -> list[Server]:
        """Those that are left out for now."""
        return [server for server in self.servers if server.rests_until > self._clock()]

    def in_order(self, user: User = None) -> Iterator[Server]:
        """Each server once, the next to ask first. Somebody's requests go to the same one where it
        is not much busier than the others; those that rest come last."""
        left = list(self.servers)
        while left:
            chosen = self._next(left, user)
            left.remove(chosen)
            yield chosen

    def failed(self, server: Server) -> None:
        """It did not answer, or broke off."""
        if not server.failures:
            LOG.warning("a model's server is gone", extra={"fields": {"server": server.url}})
        server.failures += 1
        server.rests_until = self._clock() + _rest(server)

    def answered(self, server: Server) -> None:
        """It is there."""
        if server.failures:
            LOG.warning("a model's server is back", extra={"fields": {"server": server.url}})
        server.failures, server.rests_until = 0, 0.0

    def _next(self, left: Sequence[Server], user: User) -> Server:
        now = self._clock()
        awake = [server for server in left if server.rests_until <= now]
        if not awake:
            return min(left, key=lambda server: server.rests_until)
        least = min(server.running for server in awake)
        near = [server for server in awake if server.running <= least + SLACK * (user is not None)]
        chosen = min(near, key=lambda server: _rank(user, server.url))
        if chosen.failures:  # one request finds out whether it is back; the others do not wait
            chosen.rests_until = now + _rest(chosen)
        return chosen


def urls_of(place: str) -> list[str]:
    """`http://a/v1,http://b/v1` -> each."""
    return _BETWEEN.split(place)


def _rest(server: Server) -> float:
    return min(LONGEST_REST, FIRST_REST * 2.0 ** min(server.failures - 1, 16))


def _rank(user: User, url: str) -> bytes:
    """Another order of the servers for each person, the same in every process: without a server
    its people spread over the others, and nobody else's moves (rendezvous hashing)."""
    return hashlib.sha256(f"{user} {url}".encode()).digest()
