"""An ASGI application -> the same behind a gate: every request is checked, named, timed, logged.

Pure ASGI, so that streams pass through as they are. What is refused is answered as the API answers
its own errors. This is the request boundary: whatever nobody expected ends here, as one sentence
with the request's name for the person and a traceback in the log.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import re
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from h11 import ProtocolError
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmapps.errors import InputError, LmappsError, StorageError, TooLarge
from lmapps.server.gate.areas import area_of
from lmapps.server.gate.headers import POLICY_OF_DATA, policy_of_page, secured
from lmapps.server.gate.hosts import Hosts
from lmapps.server.gate.log import NAME, REQUEST
from lmapps.server.gate.traffic import Traffic, template_of

LOG = logging.getLogger("lmapps.requests")
MOST_BYTES = 32_000_000
"""The largest request of any kind. The API takes less, and so does one uploaded file."""
MOST_EVENT_BYTES = 2_000_000
"""The largest event that the page sends: its JSON is read between everybody's tokens."""
BODY_SECONDS = 60
"""How long a request may take to arrive, its body included."""
QUIET = ("assets", "monitor", "live")
"""Areas whose requests are logged only where they fail: there is one every second."""
NAMELESS = ("files", "live")
"""Areas whose paths are logged by their template: a file is named after what somebody wrote, and
both names give access to what they name."""
_NAME = re.compile(r"[\w.-]{1,64}", re.A)


class TooSlow(InputError):
    """A request that does not arrive."""

    status = 408


class BrokenOff(InputError):
    """A request whose sender has gone before it was whole."""

    status = 499


class Gate:
    """See above.

    hosts      by which names the server may be called
    root_path  the path under which a proxy shows it, which the proxy may leave in a request or
               take out
    traffic    is told of every request
    """

    def __init__(
        self, app: ASGIApp, hosts: Hosts, root_path: str = "", traffic: Traffic | None = None
    ) -> None:
        self.app, self.hosts, self.root_path = app, hosts, root_path
        self.traffic = traffic or Traffic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            visit = Visit(self._under_root(scope), receive, send)
            token = REQUEST.set(visit.id)
            self.traffic.begun()
            try:
                await visit.answer(self.app, self.hosts)
            finally:
                REQUEST.reset(token)
                self.traffic.ended(scope["method"], visit.path, visit.status, visit.waited)
        else:  # nothing of ours speaks over a websocket
            await send({"type": "websocket.close", "code": 1008})

    def _under_root(self, scope: Scope) -> Scope:
        """The request with the whole path, of which `root_path` is the beginning (ASGI)."""
        root, path = self.root_path, scope["path"]
        if not root:
            return scope
        is_whole = path == root or path.startswith(f"{root}/")
        return {**scope, "root_path": root, "path": path if is_whole else root + path}


class Visit:
    """One request on its way through."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self.headers = Headers(scope=scope)
        given = self.headers.get("x-request-id", "")
        self.id = given if _NAME.fullmatch(given) else uuid.uuid4().hex
        self.scope = {**scope, NAME: self.id}
        self.path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        self.area = area_of(self.path)
        self.began = time.monotonic()
        self.waited: float | None = None
        """Seconds until the answer began."""
        self.status = 0
        """Of the answer; 0 as long as none has begun."""
        self.sent = 0
        self._most = MOST_EVENT_BYTES if self.area == "events" else MOST_BYTES
        self._taken, self._is_whole = 0, False
        self._refusal: LmappsError | None = None
        self._page: tuple[Message, bytearray] | None = None
        self._failed: list[Message] | None = None

    async def answer(self, app: ASGIApp, hosts: Hosts) -> None:
        """Let the request in, or say why not."""
        level, extra = logging.INFO, dict[str, Any]()
        try:
            hosts.check(self.scope["method"], self.headers)
            self._check()
            await app(self.scope, self.receive, self.send)
            await self._go_on_failed()
        except LmappsError as error:
            self._refusal = self._refusal or error
        except (ClientDisconnect, ProtocolError):  # uvicorn has said what is wrong, and closed
            self._refusal = self._refusal or BrokenOff("the request broke off")
        except Exception as error:  # the request boundary
            if isinstance(error, UnicodeError) and self.path.startswith("/gradio_api/"):
                self._refusal = InputError("the request holds what is no text in UTF-8")
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                self._refusal = StorageError("the disk of the server is full: tell who runs it")
            if not self._refusal:
                self._refusal = LmappsError(
                    f"something went wrong in the server ({type(error).__name__}): its log says "
                    f"more under the request {self.id}"
                )
                level, extra["exc_info"] = logging.ERROR, error
        except asyncio.CancelledError:
            extra["ended"] = "cancelled"
            raise
        finally:
            if self._refusal and not self.status:
                with suppress(ProtocolError):
                    await self._refuse(self._refusal)
            self._log(level, **extra)

    def _check(self) -> None:
        """Raises for what is known to be wrong before anything of the body is read."""
        length = self.headers.get("content-length", "0")
        if not length.isdecimal():
            raise InputError(f"content-length must be a whole number, got {length[:40]!r}")
        if int(length[:20]) > self._most:
            raise self._too_large()

    async def receive(self) -> Message:
        """The next part of the body; that the client has gone where there is too much of it."""
        if self._is_whole:
            return await self._receive()
        try:
            async with asyncio.timeout(max(0.0, self.began + BODY_SECONDS - time.monotonic())):
                message = await self._receive()
        except TimeoutError:
            self._refusal = TooSlow(f"the request did not arrive within {BODY_SECONDS} seconds")
            return {"type": "http.disconnect"}
        self._taken += len(message.get("body", b""))
        if self._taken > self._most:
            self._refusal = self._too_large()
            return {"type": "http.disconnect"}
        self._is_whole = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Pass the answer on, with its headers; a page waits until its policy is known."""
        if self._refusal and not self.status:
            return
        if self._failed is not None or message.get("status") == 500:
            # Starlette and Gradio answer before they raise what says why.
            self._failed = [*(self._failed or ()), message]
        elif message["type"] == "http.response.start":
            await self._begin(message)
        elif self._page:
            start, html = self._page
            html += message.get("body", b"")
            if not message.get("more_body", False):
                self._page = None
                await self._start(start, policy_of_page(bytes(html)))
                await self._go_on({"type": "http.response.body", "body": bytes(html)})
        else:
            await self._go_on(message)

    async def _begin(self, message: Message) -> None:
        headers = Headers(raw=message["headers"])
        is_page = headers.get("content-type", "").startswith("text/html") and (
            self.area == "page" and not {"content-encoding", "content-security-policy"} & {*headers}
        )
        if is_page:
            self._page = message, bytearray()
        else:
            await self._start(message, None if self.area == "assets" else POLICY_OF_DATA)

    async def _start(self, message: Message, policy: bytes | None) -> None:
        self.status, self.waited = message["status"], time.monotonic() - self.began
        headers = secured(list(message["headers"]), policy)
        headers.append((b"x-request-id", self.id.encode()))
        await self._send({**message, "headers": headers})

    async def _go_on_failed(self) -> None:
        """An answer of 500 whose reason did not come."""
        failed, self._failed = self._failed or [], None
        for message in failed:
            if message["type"] == "http.response.start":
                await self._start(message, POLICY_OF_DATA)
            else:
                await self._go_on(message)

    async def _go_on(self, message: Message) -> None:
        self.sent += len(message.get("body", b""))
        await self._send(message)

    async def _refuse(self, error: LmappsError) -> None:
        from lmapps.server.api.protocol import error_body, error_headers

        body = json.dumps(error_body(error)).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),  # there may be more of its body than anybody will read
        ]
        told = error_headers(error).items()
        headers += [(name.lower().encode(), value.encode()) for name, value in told]
        await self._start(
            {"type": "http.response.start", "status": error.status, "headers": headers},
            POLICY_OF_DATA,
        )
        await self._go_on({"type": "http.response.body", "body": body})

    def _log(self, level: int, **extra: Any) -> None:
        """One line when it has ended. The query is left out: it may hold what a person wrote."""
        is_quiet = self.area in QUIET and self.status < 400
        fields: Mapping[str, Any] = {
            "method": self.scope["method"],
            "path": template_of(self.path) if self.area in NAMELESS else self.path[:200],
            "status": self.status,
            "seconds": time.monotonic() - self.began,
            "bytes": self.sent,
            "client": (self.scope.get("client") or ("",))[0],
        }
        if self._refusal:
            fields = {**fields, "refused": str(self._refusal)}
        if "ended" in extra:
            fields = {**fields, "ended": extra.pop("ended")}
        LOG.log(
            logging.DEBUG if is_quiet else level,
            "request",
            extra={"fields": fields, "request": self.id},
            **extra,
        )

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the request is larger than {self._most:,} bytes: send less")
