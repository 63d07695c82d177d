"""A request -> who it is: the one place that says so, for the page, the API and Gradio's addresses.

Where people have accounts, `Door` has found out whose session or key it is and nothing that the
request says of itself counts. Without accounts it is what the request says: a browser keeps a
random name, a client of the API gives a `user`, and else the address counts.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from typing import Any

from lmapps.engine.turns import User, subdivided
from lmapps.errors import InputError
from lmapps.server.accounts.quotas import Payer
from lmapps.server.accounts.users import Account
from lmapps.server.store.store import Store

ACCOUNT, IS_ADMIN = "lmapps.account", "lmapps.is_admin"
"""What `Door` writes into a request's scope."""
MAX_NAME = 256
VISITOR = "[0-9a-f]{32}"
"""A browser's random name."""


@dataclass(frozen=True)
class Who:
    """Somebody who asks for something."""

    owner: str
    """What is written beside everything that is theirs."""
    turns: User
    """Who takes turns with others in the engine; with an account, who pays for the tokens too."""
    account: Account | None = None
    is_admin: bool = True
    """Whether models, training and plugins are theirs to see and change."""


def who(request: Any, *, visitor: str = "", named: Any = None) -> Who:
    """Who sends a request: Starlette's, Gradio's, or None for the program itself.

    visitor  the random name that a browser keeps; counts where there are no accounts
    named    the API's `user`; the same

    Raises `InputError` for a `user` that is no name.
    """
    if named is not None and not (isinstance(named, str) and len(named) <= MAX_NAME):
        raise InputError(
            f"user must be a text of at most {MAX_NAME} characters, got {str(named)[:60]!r}"
        )
    session = getattr(request, "session_hash", None) if request is not None else None
    scope = getattr(getattr(request, "request", request), "scope", {})
    account: Account | None = scope.get(ACCOUNT)
    if account:
        return Who(account.owner, Payer(account), account, account.role == "admin")
    turns: User = None
    if request is not None:  # nobody chooses their address; what they say of themselves divides it
        client = getattr(request, "client", None)
        turns = client.host if client else "unknown"
        within = f"user {named}" if named is not None else f"page {session}" if session else None
        turns = turns if within is None else subdivided(turns, within)
    return Who(_visitor(visitor), turns, None, scope.get(IS_ADMIN, True))


def who_on_page(visitor: str = "") -> Who:
    """Who caused the event of the page that is being handled."""
    from gradio.context import LocalContext

    return who(LocalContext.request.get(None), visitor=visitor)


def owner_on_page(visitor: str) -> str:
    """Whose things the page shows: the account's, else the browser's, by the random name that it
    keeps; '' for a browser that has said none."""
    asks = who_on_page(visitor)
    return asks.owner if asks.account or re.fullmatch(VISITOR, visitor) else ""


def adopt_on_page(store: Store, visitor: str) -> None:
    """What a browser made before its person had an account is the account's from now on."""
    asks = who_on_page(visitor)
    if asks.account and re.fullmatch(VISITOR, visitor):
        store.adopt(visitor, asks.owner)


def _visitor(name: str) -> str:
    """A browser's own random name, or a new one: no other text is taken for one, so that nobody
    calls themselves what somebody with an account is called."""
    return name if re.fullmatch(VISITOR, name) else uuid.uuid4().hex
