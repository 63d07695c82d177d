"""What a person does in a chat -> the store and the model -> what there is to see then.

Knows nothing of the page: a `Place` says where a tab stands, every action takes one and tells
what to show, the place after it included.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from lmapps.engine.application import Application, Asked
from lmapps.engine.backends.backend import Backend
from lmapps.engine.models import Models
from lmapps.errors import InputError
from lmapps.plugin import Plugin
from lmapps.server.page.chat.inside import Inside, inside_of, look_into
from lmapps.server.page.chat.saved import LISTED, SHOWN_TURNS, KeptTurn, Place, made_with, saved
from lmapps.server.page.chat.seen import Seen, seen_at
from lmapps.server.page.languages import word
from lmapps.server.page.live import Views, views
from lmapps.server.page.way import Way, changed
from lmapps.server.store.aside import aside
from lmapps.server.store.conversation import (
    Conversation,
    NoSuchConversation,
    Turn,
    as_messages,
    conversation_from,
)
from lmapps.server.store.store import Store, Summary, new_turn


class Said(NamedTuple):
    """A message that is to be answered: at the end of which branch, of what, in which list."""

    place: Place
    whole: Conversation
    listed: list[Summary]


class Talk:
    """One chat plugin on the models, with its conversations in a store.

    What asks a model takes the name of one; None = the default.
    """

    def __init__(self, plugin: Plugin, models: Models, store: Store) -> None:
        self.plugin, self.models, self.store = plugin, models, store
        self.field = self.plugin.messages_field or ""

    # Which conversation.

    def arrive(self, place: Place) -> Seen:
        """A visitor opens the page: their list, and the conversation of last time."""
        place = replace(place, listed=LISTED, search="")
        try:
            seen = self.open(place, place.conversation)
        except NoSuchConversation:
            seen = self.open(place, None)
        return replace(seen, listed=self.listed(place))

    def open(self, place: Place, conversation: str | None) -> Seen:
        """One from the list, or, for None, a new one."""
        place = replace(place, conversation=conversation, leaf=None, shown=SHOWN_TURNS)
        whole = None if conversation is None else self._load(place)
        return seen_at(place, whole, title=whole.title if whole else "", status="")

    def listed(self, place: Place) -> list[Summary]:
        """The visitor's conversations that hold the words searched for: one more than the list
        shows, where there are more."""
        return self.store.list(place.owner, self.plugin.name, place.search, place.listed + 1)

    def find(self, place: Place) -> Seen:
        """List those alone that hold the words that are searched for now."""
        return Seen(place, listed=self.listed(place), busy=None)

    def longer(self, place: Place) -> Seen:
        """List more of them."""
        place = replace(place, listed=place.listed + LISTED)
        return Seen(place, listed=self.listed(place), busy=None)

    def rename(self, place: Place, title: str) -> Seen:
        self.store.rename(place.owner, _there(place), title)
        return Seen(place, status=word("Renamed."), listed=self.listed(place), busy=None)

    def delete(self, place: Place) -> Seen:
        """Leave the conversation out of the list, and begin a new one."""
        self.store.delete(place.owner, _there(place))
        seen = self.open(place, None)
        return replace(seen, status=word("Deleted."), listed=self.listed(place))

    def restore(self, place: Place, conversation: str) -> Seen:
        """Take the deletion of a conversation back."""
        self.store.restore(place.owner, conversation)
        return replace(self.open(place, conversation), listed=self.listed(place))

    def take_in(self, place: Place, exported: Any) -> Seen:
        """A conversation that was exported, as one more of the visitor's."""
        made = self.store.take_in(place.owner, self.plugin.name, conversation_from(exported))
        return replace(self.open(place, made), status=word("Imported."), listed=self.listed(place))

    def export(self, place: Place) -> Conversation:
        """The conversation, with the branch that this tab shows."""
        whole = self.store.load(place.owner, _there(place))
        return replace(whole, leaf=place.leaf or whole.leaf)

    # What is said in it.

    async def send(self, place: Place, text: str, way: Way) -> AsyncGenerator[Seen, None]:
        """Add what was written, and answer it."""
        if not text.strip():
            yield Seen(place, status=word("Write a message first."))
            return
        before = await aside(self._path, place) if place.leaf else []
        turn = new_turn(place.leaf, "user", text, "person")
        async with aclosing(self._ask([*before, turn], way)) as stream:
            said = await aside(self._say, place, turn)  # the model reads it meanwhile
            async with aclosing(self._answer(said, way, stream)) as news:
                async for seen in news:
                    yield seen

    async def retry(self, place: Place, way: Way) -> AsyncGenerator[Seen, None]:
        """Answer the last message again; the reply before it stays, as another version."""
        said = await aside(self._said_last, place)
        if said is None:
            yield Seen(place, status=word("There is nothing to try again yet."))
            return
        async with aclosing(self._answered(said, way)) as news:
            async for seen in news:
                yield seen

    async def edit(
        self, place: Place, index: int, text: str, way: Way
    ) -> AsyncGenerator[Seen, None]:
        """Another version of turn `index` (of those shown): a message is answered again, and a
        corrected reply is kept as the person's."""
        turn = (await aside(self._shown, place))[index]
        if turn.role == "user" and text.strip():
            said = await aside(self._say, place, new_turn(turn.parent, "user", text, "person"))
            async with aclosing(self._answered(said, way)) as news:
                async for seen in news:
                    yield seen
            return
        told = word("An empty message is not kept.")
        if text.strip():
            there, told = _there(place), word("Your correction is kept.")
            corrected = await aside(
                self.store.add, place.owner, there, turn.parent, turn.role, text, "person"
            )
            place = replace(place, leaf=corrected.id)
        yield seen_at(place, await aside(self._load, place), status=told)

    def undo(self, place: Place) -> Seen:
        """Back to before the last message, which stands in the box again; the branch is kept."""
        asked = [turn for turn in self._path(place) if turn.role == "user"]
        if not asked:
            return Seen(place, status=word("There is nothing to undo."))
        last = asked[-1]
        self.store.show(place.owner, _there(place), last.parent)
        place = replace(place, leaf=last.parent)
        return seen_at(place, self._load(place), status="", message=last.content)

    def rate(self, place: Place, index: int, liked: bool | str | None) -> Seen:
        """What the person thought of turn `index` (of those shown)."""
        rating = {"True": 1, "Like": 1, "False": -1, "Dislike": -1}.get(str(liked))
        turn = self._shown(place)[index]
        self.store.rate(place.owner, _there(place), turn.id, rating)
        told = word("Your rating is kept." if rating else "Your rating is gone.")
        return Seen(place, status=told, busy=None)

    def switch(self, place: Place, by: int) -> Seen:
        """Another branch, so many after this one; the first follows the last."""
        whole = self._load(place)
        ends = whole.ends(place.leaf)
        chosen = ends[(ends.index(place.leaf) + by) % len(ends)]
        self.store.show(place.owner, whole.id, chosen)
        return seen_at(replace(place, leaf=chosen), whole, status="")

    def earlier(self, place: Place) -> Seen:
        """Show more of a long conversation."""
        place = replace(place, shown=place.shown + SHOWN_TURNS)
        return seen_at(place, self._load(place), busy=None)

    # How a reply came about.

    async def inside(
        self, place: Place, number: int | None, model: str | None = None, *, scored: bool = False
    ) -> Inside:
        """Of the replies of the branch one, counted from 1; None = the last; see `look_into`.
        Raises `InputError` where there is none."""
        path = await aside(self._path, place)
        ends = [place for place, turn in enumerate(path) if turn.role == "assistant"]
        if not ends:
            raise InputError(word("there is no reply yet: write a message first"))
        number = max(1, min(number or len(ends), len(ends)))
        before, turn = path[: ends[number - 1]], path[ends[number - 1]]
        whole = await aside(self._load, place)
        inside = replace(inside_of(whole, turn, number), count=len(ends))
        values = {**inside.made.fields, self.field: as_messages(before)}
        decoding = changed(self.plugin.decoding, inside.made.decoding)

        async def ask(backend: Backend) -> Asked:
            return await Application(self.plugin, backend).asks(values, decoding)

        written = turn.content if inside.is_persons else inside.made.written or turn.content
        return await look_into(inside, self.models, model, ask, written if scored else None)

    # How it is done.

    def _say(self, place: Place, turn: Turn) -> Said:
        """A message of the person's, in a new conversation if there is none yet."""
        here = place.conversation
        if here is None:
            here = self.store.start(place.owner, self.plugin.name, turn)
        else:
            self.store.put(place.owner, here, turn)
        place = replace(place, conversation=here, leaf=turn.id)
        return Said(place, self._load(place), self.listed(place))

    def _said_last(self, place: Place) -> Said | None:
        """The last message of the branch, as if it were said now; None where there is none."""
        whole = self._load(place) if place.conversation and place.leaf else None
        asked = [turn for turn in whole.path(place.leaf) if turn.role == "user"] if whole else []
        if whole is None or not asked:
            return None
        return Said(replace(place, leaf=asked[-1].id), whole, self.listed(place))

    def _ask(self, turns: Sequence[Turn], way: Way) -> Views:
        """Ask the model, at once."""
        values = {**way.fields, self.field: as_messages(turns)}
        return views(self.models, self.plugin, values, way.choose, way.model)

    async def _answered(self, said: Said, way: Way) -> AsyncGenerator[Seen, None]:
        """Ask for a reply after the last turn, and stream it."""
        path = said.whole.path(said.place.leaf)
        async with (
            aclosing(self._ask(path, way)) as stream,
            aclosing(self._answer(said, way, stream)) as news,
        ):
            async for seen in news:
                yield seen

    async def _answer(self, said: Said, way: Way, stream: Views) -> AsyncGenerator[Seen, None]:
        """Stream the reply, saved as it grows, whatever ends it."""
        place, whole, listed = said
        before = seen_at(place, whole, busy=True, status=word("Reading ..."))
        yield replace(before, title=whole.title, listed=listed)
        async with aclosing(self._grown(place, way, whole, before, stream)) as news:
            async for seen in news:
                yield seen

    async def _grown(
        self, place: Place, way: Way, whole: Conversation, before: Seen, stream: Views
    ) -> AsyncGenerator[Seen, None]:
        """What there is to see of a reply that is under way, after what there was before it."""
        kept = KeptTurn(self.store, place)
        made_of = partial(made_with, way.made(self.plugin))
        number, asked = 1 + sum(turn.role == "assistant" for turn in whole.path(place.leaf)), None
        begun = False
        async with aclosing(saved(stream, kept, made_of)) as news:
            async for view in news:
                seen = replace(before, status=view.status, busy=not view.done)
                if view.done or view.asked is not asked:
                    asked = view.asked
                    inside = Inside(made_of(view), asked, None, number, number)
                    seen = replace(seen, inside=inside)
                begun = begun or bool(view.text)
                if not begun:
                    yield seen
                    continue
                now = replace(place, leaf=kept.turn.id)
                if view.done:
                    whole = await aside(self._load, now)
                    yield seen_at(now, whole, status=view.status, inside=seen.inside)
                    continue
                reply = replace(kept.turn, content=view.text)
                turns = [*(before.turns or ()), reply][-place.shown :]
                yield replace(seen, place=now, turns=turns)

    def _load(self, place: Place) -> Conversation:
        return self.store.load(place.owner, _there(place))

    def _path(self, place: Place) -> list[Turn]:
        return self._load(place).path(place.leaf) if place.conversation and place.leaf else []

    def _shown(self, place: Place) -> list[Turn]:
        return self._path(place)[-place.shown :]


def _there(place: Place) -> str:
    if place.conversation is None:
        raise InputError(word("there is no conversation yet: write a message first"))
    return place.conversation
