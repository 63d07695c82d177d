"""Conversations and what people thought of them <-> a database, written as they happen.

Turns are only ever added, so that a tab which was left behind can add a branch but overwrite
nothing. Rows belong to an owner; what belongs to somebody else does not exist.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sql
from sqlalchemy import Connection

from lmapps.errors import InputError
from lmapps.sentence import Sentence
from lmapps.server.store.conversation import Author, Conversation, NoSuchConversation, Turn
from lmapps.server.store.database import Database, check_owner
from lmapps.server.store.made import Made
from lmapps.server.store.tables import CONVERSATIONS, METADATA, TURNS

TITLE_LENGTH = 60
"""A conversation is called after the first characters of its first message."""
_TURN_COLUMNS = [TURNS.c[item.name] for item in fields(Turn)]


@dataclass(frozen=True)
class Summary:
    """A line in the list of conversations."""

    id: str
    title: str
    updated: float
    """Seconds since 1970."""


class Store:
    """All conversations in one database. Every method may be called from any thread.

    url   where: any SQLAlchemy URL; '' = an SQLite file in the data folder

    Raises `StorageError` where the database cannot be read or written, `NoSuchConversation`
    where what is asked for is not there or not the owner's.
    """

    def __init__(self, url: str = "") -> None:
        self.database = Database(url)

    def close(self) -> None:
        self.database.close()

    def adopt(self, visitor: str, owner: str) -> None:
        """What a browser made before its person had an account becomes the account's, in every
        table that says whose a row is; what the account has already under the same key stays."""
        tables = [table for table in METADATA.sorted_tables if "owner" in table.c]
        with self.database.reading() as connection:
            found = [t for t in tables if connection.execute(_of_owner(t, visitor)).first()]
        for table in found:
            change = table.update().where(table.c.owner == visitor, ~_is_there(table, owner))
            with self.database.writing() as connection:
                connection.execute(change.values(owner=owner))

    def begin(self, owner: str, plugin: str, title: str = "") -> str:
        """A new, empty conversation; its id."""
        check_owner(owner)
        with self.database.writing() as connection:
            return _begin(connection, owner, plugin, title)

    def start(self, owner: str, plugin: str, turn: Turn) -> str:
        """A new conversation with a person's first message, in one go; its id."""
        check_owner(owner)
        with self.database.writing() as connection:
            made = _begin(connection, owner, plugin)
            _put(connection, made, "", turn)
        return made

    def list(
        self, owner: str, plugin: str, search: str = "", limit: int | None = None
    ) -> list[Summary]:
        """The owner's conversations that have turns, the last one used first; with `search`,
        those with every one of its words in their title or somewhere in them; with `limit`, at
        most so many."""
        table, turns = CONVERSATIONS.c, TURNS.c
        query = sql.select(table.id, table.title, table.updated).where(
            table.owner == owner,
            table.plugin == plugin,
            table.deleted.is_(None),
            sql.exists().where(turns.conversation == table.id),
        )
        for word in search.split():
            inside = sql.select(turns.conversation).where(
                turns.content.icontains(word, autoescape=True)
            )
            query = query.where(table.title.icontains(word, autoescape=True) | table.id.in_(inside))
        with self.database.reading() as connection:
            rows = connection.execute(query.order_by(table.updated.desc()).limit(limit))
            return [Summary(*row) for row in rows]

    def load(self, owner: str, conversation: str) -> Conversation:
        """A conversation with all its turns."""
        query = sql.select(*_TURN_COLUMNS).where(TURNS.c.conversation == conversation)
        with self.database.reading() as connection:
            row = _owned(connection, owner, conversation)
            turns = [Turn(*found) for found in connection.execute(query.order_by(TURNS.c.number))]
        return Conversation(row.id, row.title, row.leaf, turns)

    def with_feedback(self, plugin: str, owner: str | None = None) -> Sequence[Conversation]:
        """Conversations in which a reply was liked or corrected, oldest first: one owner's, or,
        for None, everybody's."""
        table, turns = CONVERSATIONS.c, TURNS.c
        approved = sql.select(turns.conversation).where(
            turns.role == "assistant", (turns.author == "person") | (turns.rating == 1)
        )
        query = sql.select(table.id, table.owner).where(
            table.plugin == plugin, table.deleted.is_(None), table.id.in_(approved)
        )
        if owner is not None:
            query = query.where(table.owner == owner)
        with self.database.reading() as connection:
            rows = connection.execute(query.order_by(table.updated, table.id)).all()
        return [self.load(row.owner, row.id) for row in rows]

    def rename(self, owner: str, conversation: str, title: str) -> None:
        """Another title. An empty one is refused."""
        if not title.strip():
            raise InputError(Sentence("a conversation needs a title: write one"))
        self._change(owner, conversation, title=title.strip()[:200])

    def delete(self, owner: str, conversation: str) -> None:
        """Leave it out of the list. `restore` takes that back."""
        self._change(owner, conversation, deleted=time.time())

    def restore(self, owner: str, conversation: str) -> None:
        """Take a deletion back."""
        self._change(owner, conversation, deleted=None)

    def show(self, owner: str, conversation: str, leaf: str | None) -> None:
        """Remember the branch to show by its last turn; None = nothing of it yet."""
        self._change(owner, conversation, leaf, leaf=leaf)

    def add(
        self,
        owner: str,
        conversation: str,
        parent: str | None,
        role: str,
        content: str,
        author: Author,
    ) -> Turn:
        """A turn after `parent` (None = the first), in which the conversation then ends."""
        turn = new_turn(parent, role, content, author)
        self.put(owner, conversation, turn)
        return turn

    def put(self, owner: str, conversation: str, turn: Turn) -> None:
        """The same with a turn that was made beforehand."""
        with self.database.writing() as connection:
            title = _owned(connection, owner, conversation, turn.parent).title
            _put(connection, conversation, title, turn)

    def grow(
        self, turn: str, content: str, finish: str | None = None, made: Made | None = None
    ) -> None:
        """What a model's reply says by now, and why it ended and how it was made, as far as that
        is known."""
        query = TURNS.update().where(TURNS.c.id == turn, TURNS.c.author == "model")
        values = {"content": content, "finish": finish}
        kept = {} if made is None else {"made": made.as_data()}
        with self.database.writing() as connection:
            connection.execute(query.values(values | kept))

    def rate(self, owner: str, conversation: str, turn: str, rating: int | None) -> None:
        """What a person thought of a turn: 1, -1, or None = nothing."""
        with self.database.writing() as connection:
            _owned(connection, owner, conversation, turn)
            connection.execute(TURNS.update().where(TURNS.c.id == turn).values(rating=rating))

    def take_in(self, owner: str, plugin: str, exported: Conversation) -> str:
        """A copy of a conversation, with ids of its own; its id. It is there as a whole or not."""
        check_owner(owner)
        now, made = time.time(), uuid.uuid4().hex
        new: dict[str | None, str | None] = {None: None}
        new |= {turn.id: uuid.uuid4().hex for turn in exported.turns}
        turns = [
            {
                **vars(turn), "id": new[turn.id], "parent": new[turn.parent],
                "rating": turn.rating if turn.rating in (1, -1) else None,
                "conversation": made, "created": now,
            }
            for turn in exported.turns
        ]  # fmt: skip
        title = exported.title or _title(exported.turns[0].content)
        whole = {"id": made, "owner": owner, "plugin": plugin, "title": title, "updated": now}
        with self.database.writing() as connection:
            connection.execute(CONVERSATIONS.insert().values(**whole, leaf=new[exported.leaf]))
            connection.execute(TURNS.insert(), turns)
        return made

    def _change(
        self, owner: str, conversation: str, turn: str | None = None, **values: Any
    ) -> None:
        with self.database.writing() as connection:
            _owned(connection, owner, conversation, turn)
            connection.execute(_conversation(conversation).values(values))


def new_turn(parent: str | None, role: str, content: str, author: Author) -> Turn:
    """One that is in no conversation yet. What a person says is whole, a reply has to grow."""
    finish = "stop" if author == "person" else None
    return Turn(uuid.uuid4().hex, parent, role, content, author, finish)


def _begin(connection: Connection, owner: str, plugin: str, title: str = "") -> str:
    made = uuid.uuid4().hex
    values = {"id": made, "owner": owner, "plugin": plugin, "title": title, "updated": time.time()}
    connection.execute(CONVERSATIONS.insert().values(values))
    return made


def _put(connection: Connection, conversation: str, title: str, turn: Turn) -> None:
    """Add a turn, in which the conversation ends then; the first one gives it its title."""
    now = time.time()
    values = {"conversation": conversation, "created": now, **vars(turn)}
    connection.execute(TURNS.insert().values(values))
    changes = {"leaf": turn.id, "updated": now, "title": title or _title(turn.content)}
    connection.execute(_conversation(conversation).values(changes))


def _owned(connection: Connection, owner: str, conversation: str, turn: str | None = None) -> Any:
    """The row of a conversation; raises where it, or the turn in it, is not the owner's."""
    query = sql.select(CONVERSATIONS).where(
        CONVERSATIONS.c.id == conversation, CONVERSATIONS.c.owner == owner
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        raise NoSuchConversation(
            Sentence("there is no such conversation: it may have been deleted")
        )
    if turn is not None:
        inside = sql.select(TURNS.c.id).where(
            TURNS.c.id == turn, TURNS.c.conversation == conversation
        )
        if connection.execute(inside).one_or_none() is None:
            raise NoSuchConversation(
                Sentence("this part of the conversation is not there any more")
            )
    return row


def _of_owner(table: sql.Table, owner: str) -> sql.Select[Any]:
    return sql.select(table.c.owner).where(table.c.owner == owner).limit(1)


def _is_there(table: sql.Table, owner: str) -> sql.ColumnElement[bool]:
    """Whether an owner has a row with the same key, where the key says whose a row is."""
    key = [column.name for column in table.primary_key]
    if "owner" not in key:
        return sql.false()
    theirs = table.alias()
    same = [theirs.c[name] == table.c[name] for name in key if name != "owner"]
    return sql.exists().where(theirs.c.owner == owner, *same)


def _conversation(conversation: str) -> sql.Update:
    return CONVERSATIONS.update().where(CONVERSATIONS.c.id == conversation)


def _title(content: str) -> str:
    words = " ".join(content.split())
    return words if len(words) <= TITLE_LENGTH else words[:TITLE_LENGTH].rsplit(" ", 1)[0] + " ..."
