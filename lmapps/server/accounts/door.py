"""An ASGI application -> the same behind a door: whoever has no session and no key is sent away.

Everything stands behind it, whatever Gradio or FastAPI add, but for the few addresses in `OPEN`.
A session of Gradio's (one open page, by a random text that its requests carry) belongs to whoever
used it first: nobody else's requests may name it, so nobody reads or answers for another's page.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any
from urllib.parse import parse_qsl

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmapps.errors import DatabaseFailed, InputError, LmappsError, StorageError
from lmapps.server.accounts.quotas import Quotas
from lmapps.server.accounts.rendered import sorry, wants_page
from lmapps.server.accounts.usage import headers_of
from lmapps.server.accounts.users import Account, Users
from lmapps.server.api.protocol import error_body, error_headers
from lmapps.server.store.aside import at_the_door
from lmapps.server.who import ACCOUNT, IS_ADMIN

COOKIE = "lmapps_session"
OPEN = {"/login", "/health", "/ready"}
"""Addresses that answer everybody: how to come in, and for whoever watches the server."""
UNASKED = {"/plugins/version", "/gradio_api/app_id"}
"""Addresses that answer everybody the same two numbers: every open page asks each second, and who
it is would be asked of the database as often."""
COUNTED = ("/v1/", "/apps/")
"""Addresses whose answers say what is left of the quotas."""
ADMINS = {"/metrics"}
"""Addresses that answer admins only."""
MOST_SESSIONS = 100_000
"""Pages of Gradio's whose user is remembered."""
SMALL_BYTES = 50_000
"""A body up to here is looked through at once: that takes less than a step of a model."""
IN_PATH = re.compile(r"/gradio_api/(?:heartbeat|stream)/([^/?]+)")


class NotLoggedIn(InputError):
    """No session, and no key that is known."""

    status = 401


class NotTheirs(InputError):
    """Something that is another's, or an admin's."""

    status = 403


class Door:
    """Finds out who sends a request, and lets them in or not.

    users   None = nobody has an account, and everybody comes in
    admins  whether those without an account may do what an admin may
    """

    def __init__(
        self, app: ASGIApp, users: Users | None, quotas: Quotas | None, admins: bool
    ) -> None:
        self._app, self._users, self._quotas, self._admins = app, users, quotas, admins
        self._pages: OrderedDict[str, str] = OrderedDict()
        """The user of each of Gradio's sessions."""
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="bodies")
        """One body after the other, so that they never have more than half of Python's time."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":  # nothing of ours speaks over a websocket
            await send({"type": "websocket.close", "code": 1008})
        elif self._users is None:
            # Through a proxy everybody comes from this machine.
            is_direct = "x-forwarded-for" not in HTTPConnection(scope).headers
            await self._app({**scope, IS_ADMIN: self._admins and is_direct}, receive, send)
        else:
            await self._enter(scope, receive, send)

    async def _enter(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        if path in UNASKED:
            await self._app({**scope, IS_ADMIN: False}, receive, send)
            return
        try:
            account = await self._account(HTTPConnection(scope), path in OPEN)
            if path in OPEN and account is None:
                await self._app({**scope, IS_ADMIN: False}, receive, send)
                return
            if account is None:
                raise NotLoggedIn("log in, or send an API key as `Authorization: Bearer KEY`")
            if path in ADMINS and account.role != "admin":
                raise NotTheirs(f"{path} is for admins")
            if path.startswith("/gradio_api/"):
                receive = await self._check_session(scope, path, receive, account)
        except LmappsError as error:
            await _refusal(error, scope, path)(scope, receive, send)
            return
        inner = {**scope, ACCOUNT: account, IS_ADMIN: account.role == "admin"}
        if path.startswith(COUNTED):
            send = self._telling(account, send)
        await self._app(inner, receive, send)

    async def _account(self, request: HTTPConnection, is_open: bool) -> Account | None:
        """Whose key or session it is; where everybody comes in, nobody's while that is not known.
        Raises `NotLoggedIn` for a key that is nobody's."""
        try:
            return await self._found(request)
        except DatabaseFailed:
            if is_open:
                return None
            raise

    async def _found(self, request: HTTPConnection) -> Account | None:
        assert self._users is not None
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            account = await at_the_door(self._users.of_key, key.strip())
            if account is None:
                raise NotLoggedIn("this API key is not known here: it may have been revoked")
            return account
        token = request.cookies.get(COOKIE)
        return await at_the_door(self._users.of_session, token) if token else None

    async def _check_session(
        self, scope: Scope, path: str, receive: Receive, account: Account
    ) -> Receive:
        """Raises `NotTheirs` where a request names the open page of somebody else. Returns what
        gives the body again, where it had to be read."""
        named = [name for name in IN_PATH.findall(path) if name]
        query = parse_qsl(scope.get("query_string", b"").decode("latin-1"))
        named += [value for key, value in query if key == "session_hash"]
        if scope["method"] == "POST" and not path.startswith("/gradio_api/upload"):
            body = await Request(scope, receive).body()  # as large as the gate lets in
            if len(body) <= SMALL_BYTES:
                named += _sessions_in(body)
            else:
                there = asyncio.get_running_loop()
                named += await there.run_in_executor(self._reading, _sessions_in, body)
            receive = _again(body, receive)
        for name in named:
            if self._pages.setdefault(name, account.id) != account.id:
                raise NotTheirs("this page is somebody else's: open it anew")
            self._pages.move_to_end(name)
        while len(self._pages) > MOST_SESSIONS:
            self._pages.popitem(last=False)
        return receive

    def _telling(self, account: Account, send: Send) -> Send:
        """Adds what is left of the quotas to an answer."""

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start" and self._quotas:
                with suppress(StorageError):  # the answer is there, whatever can be told of quotas
                    usages = await at_the_door(self._quotas.usage, account)
                    MutableHeaders(scope=message).update(headers_of(usages))
            await send(message)

        return told


class Pages:
    """The page of admins and that of the others: who asks gets theirs, and of the other's tabs
    and events there is nothing on it.

    pages  by whether they are an admin's; where there is one only, it is everybody's
    id     by which a page knows the process that made it
    """

    def __init__(self, pages: Mapping[bool, FastAPI], id: int = 0) -> None:
        self._pages, self.id = pages, id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_admin = scope.get(IS_ADMIN, True)
        page = self._pages.get(is_admin) or next(iter(self._pages.values()))
        await page(scope, receive, send)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """As long as the server runs."""
        async with AsyncExitStack() as stack:
            for page in self._pages.values():
                await stack.enter_async_context(page.router.lifespan_context(page))
            yield


def _refusal(error: LmappsError, scope: Scope, path: str) -> Response:
    """A browser that wants a page is led to the login, everybody else is told."""
    request = HTTPConnection(scope)
    if isinstance(error, DatabaseFailed) and wants_page(request):
        return sorry(request, error)
    if isinstance(error, NotLoggedIn) and wants_page(request) and scope["method"] == "GET":
        return RedirectResponse(f"{scope.get('root_path', '')}/login", 303)
    headers = {"WWW-Authenticate": "Bearer"} if isinstance(error, NotLoggedIn) else {}
    return JSONResponse(error_body(error), error.status, error_headers(error) | headers)


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read once more, then what comes after it."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _sessions_in(body: bytes) -> list[str]:
    """Every session that a JSON body names, at whatever place. Raises `InputError` for a body that
    is none: the page sends nothing else."""
    named: list[str] = []

    def look(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        named.extend(str(value) for key, value in pairs if key == "session_hash" and value)
        return dict(pairs)

    try:
        json.loads(body or b"{}", object_pairs_hook=look)
    except (ValueError, RecursionError):
        raise InputError("the request's body is not JSON") from None
    return named
