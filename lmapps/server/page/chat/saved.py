"""A reply's stream of views -> the same, written into the store as it grows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

from lmapps.errors import StorageError
from lmapps.server.page.live import View
from lmapps.server.store.conversation import Turn
from lmapps.server.store.database import apart
from lmapps.server.store.made import Made
from lmapps.server.store.runs import Runs
from lmapps.server.store.store import Store

SAVE_SECONDS = 0.5
"""A reply that is being written is saved at least so often."""
SHOWN_TURNS = 60
"""A long conversation shows so many turns, and more when asked for: the page stays quick."""


@dataclass(frozen=True)
class Place:
    """Where one tab of one visitor stands."""

    owner: str = ""
    conversation: str | None = None
    """None = a new one, which is kept from its first message on."""
    leaf: str | None = None
    """The last turn that this tab shows, whatever other tabs do meanwhile."""
    shown: int = SHOWN_TURNS


class Keeper(Protocol):
    """Where one reply is kept."""

    def begin(self) -> None:
        """Make room for it, before its first word."""

    def grow(self, text: str, finish: str | None, made: Made) -> None:
        """What it says by now; `finish` says why it ended, if it did."""


async def saved(
    stream: AsyncGenerator[View, None], keeper: Keeper, made_of: Callable[[View], Made]
) -> AsyncGenerator[View, None]:
    """Each view, once it is kept; nothing is kept as long as nothing was written.

    made_of  what is known by then of how the reply was made

    Whatever ends the stream (Stop, a closed tab, an error), what was written is kept. Each write is
    waited for, so that a late one never overtakes the last; where one fails in the middle, the
    reply goes on and the next one keeps all of it.
    """
    view, begun, last_saved, under_way = View(), False, 0.0, asyncio.Future[None]()
    under_way.set_result(None)

    def begin() -> None:
        nonlocal begun
        keeper.begin()
        begun = True

    async def keep(work: Callable[..., None], *args: Any) -> None:
        nonlocal under_way
        under_way = asyncio.ensure_future(apart(work, *args))
        await asyncio.shield(under_way)

    try:
        async with aclosing(stream) as news:
            async for view in news:
                if not begun and view.text:
                    await keep(begin)
                if begun and (view.done or time.monotonic() - last_saved >= SAVE_SECONDS):
                    finish = ("error" if view.failed else "stop") if view.done else None
                    try:
                        await keep(keeper.grow, view.text, finish, made_of(view))
                    except StorageError:
                        if view.done:
                            raise
                    last_saved = time.monotonic()
                yield view
    finally:
        await asyncio.wait({under_way})
        if begun and not view.done:
            with suppress(StorageError):  # nobody is there any more to be told
                await keep(keeper.grow, view.text, "cancelled", made_of(view))


def made_with(made: Made, view: View) -> Made:
    """How a reply was made, with what its view tells of that."""
    if view.asked is not None:
        made = replace(made, model=view.asked.backend.name)
    if view.took is None:
        return made
    written = view.took.written.strip()
    return replace(
        made,
        prompt_tokens=view.took.prompt_tokens,
        tokens=view.took.tokens,
        first_token=view.took.first_token,
        seconds=view.took.seconds,
        written=None if written == view.text.strip() else written,
    )


class KeptTurn:
    """A reply in a conversation; `turn` is what there is of it so far."""

    def __init__(self, store: Store, place: Place) -> None:
        self._store, self._place = store, place
        self.turn: Turn | None = None

    def begin(self) -> None:
        place = self._place
        assert place.conversation is not None
        self.turn = self._store.add(
            place.owner, place.conversation, place.leaf, "assistant", "", "model"
        )

    def grow(self, text: str, finish: str | None, made: Made) -> None:
        assert self.turn is not None
        self._store.grow(self.turn.id, text, finish, made)


class KeptRun:
    """A form's reply, with what was filled in."""

    def __init__(self, runs: Runs, owner: str, plugin: str, fields: dict[str, Any]) -> None:
        self._runs, self._owner, self._plugin, self._fields = runs, owner, plugin, fields
        self.id: str | None = None

    def begin(self) -> None:
        self.id = self._runs.begin(self._owner, self._plugin, self._fields)

    def grow(self, text: str, finish: str | None, made: Made) -> None:
        assert self.id is not None
        self._runs.grow(self.id, text, finish, made)
