"""The page's document -> the same, made once instead of for every visit, which takes 60 ms.

It is the same for everybody: who visits it, in which language and scheme, it finds out itself. Only
the address by which it was asked for stands in it.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

KEPT = 16
"""Addresses by which it is asked for: as a rule one or two."""
NAMING = (b"host", b"x-forwarded-host", b"x-forwarded-proto", b"x-gradio-server")
"""The headers that say so."""
Key = tuple[object, ...]


class Document:
    """An ASGI application around the page's."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._kept: dict[Key, list[Message]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = _key(scope)
        if key is None:
            await self._app(scope, receive, send)
            return
        told = self._kept.get(key)
        if told is None:
            told = await self._made(scope, receive)
            if _is_document(told):
                self._kept[key] = told
                while len(self._kept) > KEPT:
                    del self._kept[next(iter(self._kept))]
        for message in told:
            await send(dict(message))

    async def _made(self, scope: Scope, receive: Receive) -> list[Message]:
        """The messages of an answer."""
        told: list[Message] = []

        async def keep(message: Message) -> None:
            told.append(message)

        await self._app(scope, receive, keep)
        return told


def _key(scope: Scope) -> Key | None:
    """By what a document differs from others; None where it is none that is asked for."""
    if scope["type"] != "http" or scope["method"] != "GET" or scope.get("query_string"):
        return None
    root = scope.get("root_path", "")
    if scope["path"].removeprefix(root) not in ("", "/"):
        return None
    named = tuple(sorted(pair for pair in scope["headers"] if pair[0] in NAMING))
    return scope.get("scheme"), root, scope["path"], scope.get("server"), named


def _is_document(told: list[Message]) -> bool:
    start = told[0]
    kind = Headers(raw=start.get("headers", [])).get("content-type", "")
    return start.get("status") == 200 and kind.startswith("text/html")
