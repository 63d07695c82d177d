"""A reply's stream of views -> the same, written into the store as it grows."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from lmapps.server.page.live import View, Views
from lmapps.server.store.aside import InOrder, Together
from lmapps.server.store.made import Made
from lmapps.server.store.runs import Runs
from lmapps.server.store.store import Store, new_turn

SAVE_SECONDS = 0.5
"""A reply that is being written is saved at least so often."""
TOGETHER = Together()
"""With all others that are."""
SHOWN_TURNS = 60
"""A long conversation shows so many turns, and more when asked for: the page stays quick."""
LISTED = 200
"""So many conversations are listed, and so many more when asked for."""
MOST_SHOWN = 10_000
"""Of either."""


@dataclass(frozen=True)
class Place:
    """Where one tab of one visitor stands."""

    owner: str = ""
    conversation: str | None = None
    """None = a new one, which is kept from its first message on."""
    leaf: str | None = None
    """The last turn that this tab shows, whatever other tabs do meanwhile."""
    shown: int = SHOWN_TURNS
    listed: int = LISTED
    """So many of the visitor's conversations, if there are."""
    search: str = ""
    """Only those that hold these words."""
    looks: bool = False
    """Whether the inside of the replies is unfolded."""

    def as_text(self) -> str:
        """Where it is, which the tab itself remembers: the server keeps nothing. Whose it is is
        found out anew with every request."""
        return json.dumps({"conversation": self.conversation, "leaf": self.leaf})

    def extent(self) -> str:
        """How much it shows, remembered likewise; on its own, since it changes beside a reply that
        changes where the tab is."""
        return json.dumps({"shown": self.shown, "listed": self.listed})


def place_from(
    text: str | None, owner: str, looks: bool = False, extent: str | None = None,
    search: str | None = None,
) -> Place:  # fmt: skip
    """What `as_text` and `extent` made, for whoever asks; of anything else a new conversation."""
    shown, listed = _extent(extent)
    new = Place(owner, None, None, shown, listed, search or "", looks)
    values = _read(text)
    conversation, leaf = (values.get(name) for name in ("conversation", "leaf"))
    if not isinstance(conversation, str) or not isinstance(leaf, str | None):
        return new
    return replace(new, conversation=conversation, leaf=leaf)


def _extent(text: str | None) -> tuple[int, int]:
    values, least = _read(text), {"shown": SHOWN_TURNS, "listed": LISTED}
    try:
        asked = [max(int(values.get(name, few)), few) for name, few in least.items()]
    except (ValueError, TypeError, OverflowError):
        return SHOWN_TURNS, LISTED
    shown, listed = (min(count, MOST_SHOWN) for count in asked)
    return shown, listed


def _read(text: str | None) -> dict[str, Any]:
    """An object of JSON; of anything else an empty one."""
    try:
        values = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


class Keeper(Protocol):
    """Where one reply is kept."""

    def begin(self) -> None:
        """Make room for it, before its first word."""

    def grow(self, text: str, finish: str | None, made: Made) -> None:
        """What it says by now; `finish` says why it ended, if it did."""


async def saved(
    stream: Views, keeper: Keeper, made_of: Callable[[View], Made]
) -> AsyncGenerator[View, None]:
    """Each view; nothing is kept as long as nothing was written.

    made_of  what is known by then of how the reply was made

    Whatever ends the stream (Stop, a closed tab, an error), what was written is kept, and the last
    view is passed on once it is. Those before do not wait for the database: where it is slow, or
    fails for a while, it gets the next one.
    """
    view, begun, is_there, due, writes = View(), False, False, 0.0, InOrder()

    def begin() -> None:
        nonlocal is_there
        if not is_there:
            keeper.begin()
            is_there = True

    def keep(view: View, finish: str | None = None) -> None:
        begin()
        keeper.grow(view.text, finish, made_of(view))

    try:
        async with aclosing(stream) as news:
            async for view in news:
                if not begun and view.text:
                    begun = True
                    writes.begin(begin)
                    due = time.monotonic() + SAVE_SECONDS
                if begun and view.done:
                    finish = "error" if view.failed else "stop"
                    TOGETHER.drop(writes)
                    await writes.end(partial(keep, view, finish))
                elif is_there:
                    TOGETHER.put(writes, partial(keep, view), SAVE_SECONDS)
                elif begun and time.monotonic() >= due and not writes.is_busy:
                    writes.begin(partial(keep, view))  # alone: all together may be taken back
                    due = time.monotonic() + SAVE_SECONDS
                yield view
    finally:
        TOGETHER.drop(writes)
        if begun and not view.done:
            await writes.end(partial(keep, view, "cancelled"))


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
        first_token=view.first_token,
        seconds=view.took.seconds,
        written=None if written == view.text.strip() else written,
    )


class KeptTurn:
    """A reply in a conversation; `turn` is how it begins."""

    def __init__(self, store: Store, place: Place) -> None:
        self._store, self._place = store, place
        self.turn = new_turn(place.leaf, "assistant", "", "model")

    def begin(self) -> None:
        assert self._place.conversation is not None
        self._store.put(self._place.owner, self._place.conversation, self.turn)

    def grow(self, text: str, finish: str | None, made: Made) -> None:
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
