"""An application and a socket -> a server that ends well: streams finish, then are told why not."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any, Protocol

import uvicorn

from lmapps.server.gate.connections import Connection, most_connections

LOG = logging.getLogger("lmapps.server")
LAST_SECONDS = 2
"""How long connections have after that to take the last words: an error that says why it ended."""
LOOK_SECONDS = 0.05
KEEP_ALIVE_SECONDS = 75
"""How long a connection waits for the next request: longer than those who ask keep it (the openai
package 5 s, nginx 60), for who closes it must know that no request is on its way."""
LOOP = "asyncio"
"""Where uvloop is installed uvicorn would take it: measured, it is no faster here, and `Connection`
is tried with this one."""


class Work(Protocol):
    """What is under way, as far as a server that ends has to know."""

    def refuse(self) -> None:
        """Take nothing new from now on."""

    def close(self) -> None:
        """End what is left, each with a reason."""

    def describe(self) -> Sequence[Any]:
        """Each model, with its `users`: requests that have not ended."""

    def mend(self) -> None:
        """Start again what has ended by itself."""

    @property
    def hopeless(self) -> str | None:
        """Why that does not help any more."""


class Server(uvicorn.Server):
    """uvicorn's, with an order of ending.

    A first signal (SIGTERM or Ctrl-C): nobody new is let in, whoever has a stream gets it to its
    end, at most `grace` seconds long; then what is left is ended with a reason. A second signal
    ends everything at once. Where an engine fails again and again it ends by itself, as after a
    first signal, and `gave_up` says why.
    """

    gave_up: str | None = None

    def __init__(
        self,
        app: Any,
        work: Work | None = None,
        grace: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app, http=Connection, ws="none", loop=LOOP, log_config=None, access_log=False,
                server_header=False, timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=LAST_SECONDS, **options,
            )
        )  # fmt: skip
        Connection.most = most_connections()
        self._work, self.grace = work, grace

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self.force_exit = True
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """uvicorn calls it ten times a second."""
        if self._work and counter % 10 == 0 and not self.should_exit:
            self._work.mend()
            self.gave_up = self._work.hopeless
            self.should_exit = self.gave_up is not None
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._work:
            await self._drain(self._work)
        await super().shutdown(sockets)

    async def _drain(self, work: Work) -> None:
        for server in self.servers:
            server.close()
        work.refuse()
        LOG.info("stopping", extra={"fields": {"under_way": _left(work), "grace": self.grace}})
        end = time.monotonic() + self.grace
        while _left(work) and time.monotonic() < end and not self.force_exit:
            await asyncio.sleep(LOOK_SECONDS)
        if self.force_exit:
            return
        if left := _left(work):
            LOG.warning("ended before their time", extra={"fields": {"requests": left}})
        await asyncio.to_thread(work.close)


def _left(work: Work) -> int:
    return sum(model.users for model in work.describe())
