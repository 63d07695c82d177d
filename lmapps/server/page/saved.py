"""A reply's stream of views -> the same, written into the store as it grows."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from lmapps.server.page.live import View
from lmapps.server.store.conversation import Turn
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


async def saved(
    stream: AsyncGenerator[View, None], store: Store, place: Place
) -> AsyncGenerator[tuple[View, Turn | None], None]:
    """Each view, with the turn as it is by then; None as long as nothing was written.

    Whatever ends the stream (Stop, a closed tab, an error), what was written is kept. The writes
    take about a millisecond and are not sent to another thread, where a late one could overtake
    the last.
    """
    assert place.conversation is not None
    reply: Turn | None = None
    ended, last_saved = False, 0.0
    try:
        async with aclosing(stream) as news:
            async for view in news:
                if reply is None and view.text:
                    reply = store.add(
                        place.owner, place.conversation, place.leaf, "assistant", "", "model"
                    )
                if reply is not None:
                    reply = replace(reply, content=view.text)
                    if view.done or time.monotonic() - last_saved >= SAVE_SECONDS:
                        finish = ("error" if view.failed else "stop") if view.done else None
                        store.grow(reply.id, reply.content, finish)
                        last_saved = time.monotonic()
                ended = view.done
                yield view, reply
    finally:
        if reply is not None and not ended:
            store.grow(reply.id, reply.content, "cancelled")
