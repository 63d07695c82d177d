"""Conversations and what people thought of them <-> a database, written as they happen.

Turns are only ever added, so that a tab which was left behind can add a branch but overwrite
nothing. Rows belong to an owner; what belongs to somebody else does not exist.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sql
from sqlalchemy import Column, Connection, Float, ForeignKey, Index, Integer, String, Table, Text

from lmapps.errors import InputError, StorageError
from lmapps.paths import home
from lmapps.server.store.conversation import Author, Conversation, NoSuchConversation, Turn

TITLE_LENGTH = 60
"""A conversation is called after the first characters of its first message."""
BUSY_SECONDS = 10
"""How long SQLite waits for another process that writes."""

_TABLES = sql.MetaData()
_CONVERSATIONS = Table(
    "conversations", _TABLES,
    Column("id", String(32), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("plugin", String(200), nullable=False),
    Column("title", Text, nullable=False),
    Column("leaf", String(32)),
    Column("updated", Float, nullable=False),
    Column("deleted", Float),
    Index("conversations_of_owner", "owner", "plugin", "updated"),
)  # fmt: skip
_TURNS = Table(
    "turns", _TABLES,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("id", String(32), unique=True, nullable=False),
    Column("conversation", ForeignKey("conversations.id"), nullable=False, index=True),
    Column("parent", String(32)),
    Column("role", String(16), nullable=False),
    Column("content", Text, nullable=False),
    Column("author", String(16), nullable=False),
    Column("finish", String(16)),
    Column("rating", Integer),
    Column("created", Float, nullable=False),
)  # fmt: skip
_TURN_COLUMNS = [_TURNS.c[item.name] for item in fields(Turn)]


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
        self.url = url
        with self._reported():
            if not url:
                home().mkdir(parents=True, exist_ok=True)
                self.url = f"sqlite:///{home() / 'lmapps.db'}"
            self._database = sql.create_engine(self.url)
            if self._database.dialect.name == "sqlite":
                sql.event.listen(self._database, "connect", _tune_sqlite)
            _TABLES.create_all(self._database)

    def close(self) -> None:
        self._database.dispose()

    def begin(self, owner: str, plugin: str, title: str = "") -> str:
        """A new, empty conversation; its id."""
        made = uuid.uuid4().hex
        values = {"id": made, "owner": owner, "plugin": plugin, "title": title}
        with self._writing() as connection:
            connection.execute(_CONVERSATIONS.insert().values(**values, updated=time.time()))
        return made

    def list(self, owner: str, plugin: str, search: str = "", limit: int = 200) -> list[Summary]:
        """The owner's conversations that have turns, the last one used first; with `search`,
        those with every one of its words in their title or somewhere in them."""
        table, turns = _CONVERSATIONS.c, _TURNS.c
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
        with self._reading() as connection:
            rows = connection.execute(query.order_by(table.updated.desc()).limit(limit))
            return [Summary(*row) for row in rows]

    def load(self, owner: str, conversation: str) -> Conversation:
        """A conversation with all its turns."""
        query = sql.select(*_TURN_COLUMNS).where(_TURNS.c.conversation == conversation)
        with self._reading() as connection:
            row = _owned(connection, owner, conversation)
            turns = [Turn(*found) for found in connection.execute(query.order_by(_TURNS.c.number))]
        return Conversation(row.id, row.title, row.leaf, turns)

    def with_feedback(self, plugin: str, owner: str | None = None) -> Sequence[Conversation]:
        """Conversations in which a reply was liked or corrected, oldest first: one owner's, or,
        for None, everybody's."""
        table, turns = _CONVERSATIONS.c, _TURNS.c
        approved = sql.select(turns.conversation).where(
            turns.role == "assistant", (turns.author == "person") | (turns.rating == 1)
        )
        query = sql.select(table.id, table.owner).where(
            table.plugin == plugin, table.deleted.is_(None), table.id.in_(approved)
        )
        if owner is not None:
            query = query.where(table.owner == owner)
        with self._reading() as connection:
            rows = connection.execute(query.order_by(table.updated, table.id)).all()
        return [self.load(row.owner, row.id) for row in rows]

    def rename(self, owner: str, conversation: str, title: str) -> None:
        """Another title. An empty one is refused."""
        if not title.strip():
            raise InputError("a conversation needs a title: write one")
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
        finish = "stop" if author == "person" else None
        turn = Turn(uuid.uuid4().hex, parent, role, content, author, finish)
        with self._writing() as connection:
            title = _owned(connection, owner, conversation, parent).title
            values = {"conversation": conversation, "created": time.time(), **vars(turn)}
            connection.execute(_TURNS.insert().values(values))
            changes = {"leaf": turn.id, "updated": time.time(), "title": title or _title(content)}
            connection.execute(_conversation(conversation).values(changes))
        return turn

    def grow(self, turn: str, content: str, finish: str | None = None) -> None:
        """What a model's reply says by now, and why it ended if it did."""
        query = _TURNS.update().where(_TURNS.c.id == turn, _TURNS.c.author == "model")
        with self._writing() as connection:
            connection.execute(query.values(content=content, finish=finish))

    def rate(self, owner: str, conversation: str, turn: str, rating: int | None) -> None:
        """What a person thought of a turn: 1, -1, or None = nothing."""
        with self._writing() as connection:
            _owned(connection, owner, conversation, turn)
            connection.execute(_TURNS.update().where(_TURNS.c.id == turn).values(rating=rating))

    def take_in(self, owner: str, plugin: str, exported: Conversation) -> str:
        """A copy of a conversation, with ids of its own; its id. It is there as a whole or not."""
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
        with self._writing() as connection:
            connection.execute(_CONVERSATIONS.insert().values(**whole, leaf=new[exported.leaf]))
            connection.execute(_TURNS.insert(), turns)
        return made

    def _change(
        self, owner: str, conversation: str, turn: str | None = None, **values: Any
    ) -> None:
        with self._writing() as connection:
            _owned(connection, owner, conversation, turn)
            connection.execute(_conversation(conversation).values(values))

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._reported(), self._database.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._reported(), self._database.begin() as connection:
            yield connection

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """A database's failure becomes a sentence, without the password in its URL."""
        try:
            yield
        except (sql.exc.SQLAlchemyError, ImportError, OSError) as error:
            place = self.url.rpartition("@")[2] or home()
            reason = str(getattr(error, "orig", None) or error).splitlines()[0]
            way_out = (
                f"install the package {error.name!r}"
                if isinstance(error, ImportError)
                else "check that it is there, can be written, and has room"
            )
            raise StorageError(
                f"the database {place} cannot be used ({reason}): {way_out}"
            ) from None


def _owned(connection: Connection, owner: str, conversation: str, turn: str | None = None) -> Any:
    """The row of a conversation; raises where it, or the turn in it, is not the owner's."""
    query = sql.select(_CONVERSATIONS).where(
        _CONVERSATIONS.c.id == conversation, _CONVERSATIONS.c.owner == owner
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        raise NoSuchConversation("there is no such conversation: it may have been deleted")
    if turn is not None:
        inside = sql.select(_TURNS.c.id).where(
            _TURNS.c.id == turn, _TURNS.c.conversation == conversation
        )
        if connection.execute(inside).one_or_none() is None:
            raise NoSuchConversation("this part of the conversation is not there any more")
    return row


def _conversation(conversation: str) -> sql.Update:
    return _CONVERSATIONS.update().where(_CONVERSATIONS.c.id == conversation)


def _title(content: str) -> str:
    words = " ".join(content.split())
    return words if len(words) <= TITLE_LENGTH else words[:TITLE_LENGTH].rsplit(" ", 1)[0] + " ..."


def _tune_sqlite(connection: Any, _: Any) -> None:
    """Readers beside a writer (WAL); what was committed survives a kill of the process."""
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")
