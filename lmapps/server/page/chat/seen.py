"""What a tab of a chat shows after something was done in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lmapps.server.page.chat.inside import Inside, inside_of
from lmapps.server.page.chat.saved import Place
from lmapps.server.store.conversation import Conversation, Turn
from lmapps.server.store.made import Made
from lmapps.server.store.store import Summary


@dataclass(frozen=True)
class Seen:
    """What a tab shows after an action; what is None stays as it is."""

    place: Place
    turns: Sequence[Turn] | None = None
    """The last `place.shown` turns of the branch."""
    earlier: int = 0
    """How many turns come before those."""
    version: tuple[int, int] | None = None
    """Of the conversation's branches: which one this is, and of how many."""
    title: str | None = None
    """The conversation's, where it is another one than before or begins."""
    status: str | None = None
    message: str | None = None
    """What stands in the box to write in."""
    busy: bool | None = False
    """Whether a reply is under way; None after what is done beside one, which leaves the place
    where it is."""
    listed: Sequence[Summary] | None = None
    """One more than `place.listed` where there are more."""
    inside: Inside | None = None
    """Of the last reply."""


def seen_at(place: Place, whole: Conversation | None, **more: Any) -> Seen:
    """The branch of a place; without a conversation, nothing yet."""
    if whole is None:
        return Seen(place, turns=[], **{"inside": Inside(Made()), **more})
    path = whole.path(place.leaf)
    replies = [turn for turn in path if turn.role == "assistant"]
    if "inside" not in more and not more.get("busy"):
        more["inside"] = inside_of(whole, replies[-1], len(replies)) if replies else Inside(Made())
    place = replace(place, leaf=path[-1].id if path else None)
    ends = whole.ends(place.leaf)
    version = (ends.index(place.leaf) + 1, len(ends)) if len(ends) > 1 else None
    shown = path[-place.shown :]
    return Seen(place, shown, len(path) - len(shown), version, **more)
