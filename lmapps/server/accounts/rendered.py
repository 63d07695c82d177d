"""A template of ours and its values -> a small page, in the colours of the applications."""

from __future__ import annotations

import time
from functools import cache, partial
from pathlib import Path
from typing import Any

from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, Response

from lmapps.errors import LmappsError
from lmapps.server.api.protocol import error_headers, on_error
from lmapps.server.page.languages import codes_of, translated, word_for

NO_STORE = {"Cache-Control": "no-store"}


def page_of(request: Any, shows: str, status: int = 200, **values: Any) -> Response:
    shown = _template(shows).render(
        root=root_of(request),
        word=partial(word_for, request),
        language=codes_of(request)[0] or "en",
        narrow=shows != "account",
        moment=_moment,
        **values,
    )
    return HTMLResponse(shown, status, NO_STORE)


def wants_page(request: HTTPConnection) -> bool:
    """Whether it is a browser that will show the answer."""
    return "text/html" in request.headers.get("accept", "")


def sorry(request: HTTPConnection, error: LmappsError) -> Response:
    """The page for whoever comes while they cannot be let in; it tries again by itself."""
    told = str(translated(error, partial(word_for, request)))
    is_opened = request.scope["method"] == "GET"
    again = "" if is_opened else f"; url={root_of(request)}/"
    answer = page_of(request, "sorry", error.status, told=told, again=again)
    answer.headers.update(error_headers(error))
    return answer


async def on_failed_database(request: Request, error: Exception) -> Response:
    """The handler of `DatabaseFailed`: a form that was sent is answered by a page."""
    assert isinstance(error, LmappsError)
    return sorry(request, error) if wants_page(request) else await on_error(request, error)


def root_of(request: HTTPConnection) -> str:
    """The path under which a proxy shows the server."""
    return str(request.scope.get("root_path", ""))


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


@cache
def _template(name: str) -> Any:
    """One of the pages, in the colours of the applications."""
    from jinja2 import Environment, FileSystemLoader, select_autoescape
    from markupsafe import Markup

    from lmapps.server.page.look import ICON
    from lmapps.server.page.theme import ACCENT, FONTS, PAPER

    folder = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=folder, autoescape=select_autoescape(["jinja"]))
    environment.globals |= {
        "accent": ACCENT, "paper": PAPER, "icon": Markup(ICON.read_text("utf-8")),  # noqa: S704
        "fonts": Markup(", ".join(f"'{name}'" if " " in name else name for name in FONTS)),  # noqa: S704
    }  # fmt: skip
    return environment.get_template(f"{name}.html.jinja")
