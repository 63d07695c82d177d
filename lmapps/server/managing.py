"""A visitor -> whether they may manage what everybody shares: models and training runs."""

from __future__ import annotations

from typing import Any

from lmapps.errors import InputError


class NotAllowed(InputError):
    """Something that only who runs the server may do."""

    status = 403


def may_manage(request: Any) -> bool:
    """Whether this request may see and use the Models and Training tabs and their addresses.

    request   FastAPI's, or Gradio's, which has the same headers and cookies

    The one place that decides it. There are no accounts: everybody who reaches the server may.
    """
    return True


def check_may_manage(request: Any) -> None:
    """Raises `NotAllowed`."""
    if not may_manage(request):
        raise NotAllowed("only an administrator may do this: ask the one who runs the server")


def check_page() -> None:
    """The same for a handler of the page: whoever pressed something."""
    from gradio.context import LocalContext

    check_may_manage(LocalContext.request.get(None))
