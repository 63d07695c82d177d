"""A request -> refused, unless whoever sends it may manage what everybody shares: models and runs.

Their tabs are not part of the page of others; this stands before what the tabs do, since every
event and address can be asked for by anybody.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from lmapps.errors import InputError
from lmapps.sentence import Sentence
from lmapps.server.who import who, who_on_page

P = ParamSpec("P")
T = TypeVar("T")


class NotAllowed(InputError):
    """Something that only an administrator may do."""

    status = 403


def check_may_manage(request: Any) -> None:
    """Of an address of ours. Raises `NotAllowed`."""
    _check(who(request).is_admin)


def check_page() -> None:
    """Of an event of the page. Raises `NotAllowed`."""
    _check(who_on_page().is_admin)


def managed(event: Callable[P, T]) -> Callable[P, T]:
    """The same event of the page, for administrators only."""

    @wraps(event)
    def checked(*values: P.args, **named: P.kwargs) -> T:
        check_page()
        return event(*values, **named)

    return checked


def _check(is_admin: bool) -> None:
    if not is_admin:
        raise NotAllowed(
            Sentence("only an administrator may do this: ask the one who runs the server")
        )
