"""Gradio's web application -> the same with the addresses that our page asks for, and no others."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

from lmapps.errors import InputError

_FILE = r"(?:\w[\w.-]{0,99}/){0,4}\w[\w.-]{0,99}"
NEEDED = {
    **{path: path for path in (
        "/", "/theme.css", "/manifest.json", "/pwa_icon", "/favicon.ico",
        "/config",  # what the page is made of, for a program that acts as one
    )},
    "/assets/{path:path}": f"/assets/{_FILE}",
    "/static/{path:path}": f"/static/{_FILE}",
    **{path: path for path in (f"/gradio_api/{name}" for name in (
        "queue/join", "queue/data", "cancel", "reset", "upload", "upload_progress", "app_id",
    ))},
    "/gradio_api/run/{api_name}": "/gradio_api/run/predict",
    "/gradio_api/heartbeat/{session_hash}": r"/gradio_api/heartbeat/\w{1,64}",
    "/gradio_api/file={path_or_url:path}": r"/gradio_api/file=(?:/|[A-Z]:)[^\0]{1,4000}",
}  # fmt: skip
"""Gradio's routes -> a pattern of what our page asks of each. What else Gradio has (its login, its
monitor, proxies, editors, recordings, calls by name) is not there."""
WITH_QUERY = {f"/gradio_api/{name}" for name in ("queue/data", "upload", "upload_progress")}
"""What reads a query of ours. Elsewhere Gradio would take it for another page, or for a link to a
page that somebody has kept."""
_NEEDED = re.compile("|".join(NEEDED.values()), re.A | re.S)
_RANGE = re.compile(rb"bytes=(\d{1,18}-\d{0,18}|-\d{1,18})")


class NoSuchAddress(InputError):
    """An address that nothing answers."""

    status = 404


class Needed:
    """Raises `NoSuchAddress` for what is not needed."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        if not is_needed(path):
            raise NoSuchAddress(f"there is nothing at {path[:100]!r}")
        if path not in WITH_QUERY:
            scope = {**scope, "query_string": b""}
        await self._app({**scope, "headers": _understood(scope["headers"])}, receive, send)


def is_needed(path: str) -> bool:
    """Whether our page asks for a path."""
    return _NEEDED.fullmatch(path) is not None


def _understood(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Without a range that is none, or several: whoever asks for them gets the whole file, as HTTP
    has it, where Gradio fails."""
    return [pair for pair in headers if pair[0] != b"range" or _RANGE.fullmatch(pair[1])]
