"""Every table of the database, and what a text in it may hold.

Another table, column or index: change it here, and add a file to `migrations/versions/` that
makes the same change to a database that is there already. A test compares the two.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sql
from sqlalchemy import Column, Float, ForeignKey, Index, Integer, String, Table, UniqueConstraint
from sqlalchemy.types import TypeDecorator

METADATA = sql.MetaData()
Json = sql.JSON(none_as_null=True)


class Words(TypeDecorator[str]):
    """What a person or a model wrote, of any length. What PostgreSQL cannot keep is replaced: the
    character zero by its picture, half of a surrogate pair by a question mark."""

    impl = sql.Text
    cache_ok = True

    def process_bind_param(self, value: Any, _: Any) -> Any:
        if not isinstance(value, str):
            return value
        return value.replace("\0", "\u2400").encode("utf-8", "replace").decode()


CONVERSATIONS = Table(
    "conversations", METADATA,
    Column("id", String(32), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("plugin", String(200), nullable=False),
    Column("title", Words, nullable=False),
    Column("leaf", String(32)),
    Column("updated", Float, nullable=False),
    Column("deleted", Float),
    Index("conversations_of_owner", "owner", "plugin", "updated"),
)  # fmt: skip
TURNS = Table(
    "turns", METADATA,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("id", String(32), unique=True, nullable=False),
    Column("conversation", ForeignKey("conversations.id"), nullable=False, index=True),
    Column("parent", String(32)),
    Column("role", String(16), nullable=False),
    Column("content", Words, nullable=False),
    Column("author", String(16), nullable=False),
    Column("finish", String(16)),
    Column("rating", Integer),
    Column("created", Float, nullable=False),
    Column("made", Json),
)  # fmt: skip
PRESETS = Table(
    "presets", METADATA,
    Column("owner", String(64), primary_key=True),
    Column("kind", String(220), primary_key=True),
    Column("name", String(60), primary_key=True),
    Column("values", Json, nullable=False),
    Column("updated", Float, nullable=False),
)  # fmt: skip
RUNS = Table(
    "runs", METADATA,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("id", String(32), unique=True, nullable=False),
    Column("owner", String(64), nullable=False),
    Column("plugin", String(200), nullable=False),
    Column("fields", Json, nullable=False),
    Column("reply", Words, nullable=False),
    Column("finish", String(16)),
    Column("made", Json),
    Column("created", Float, nullable=False),
    Column("deleted", Float),
    Index("runs_of_owner", "owner", "plugin", "number"),
)  # fmt: skip


def _counted() -> list[Column[Any]]:
    """What is counted for a user and for a key, and the limits that are theirs alone."""
    return [
        Column("requests_a_minute", Integer),  # None = the server's own setting
        Column("tokens_a_day", Integer),
        Column("minute", Integer, nullable=False, default=0),  # minutes since 1970
        Column("requests", Integer, nullable=False, default=0),  # in that minute
        Column("day", Integer, nullable=False, default=0),  # days since 1970, UTC
        Column("tokens", Integer, nullable=False, default=0),  # on that day
    ]


USERS = Table(
    "users", METADATA,
    Column("id", String(32), primary_key=True),
    Column("name", String(64), unique=True, nullable=False),
    Column("password", String(200), nullable=False),  # argon2id, its salt and settings included
    Column("role", String(16), nullable=False),
    Column("created", Float, nullable=False),
    *_counted(),
)  # fmt: skip
SESSIONS = Table(
    "sessions", METADATA,
    Column("hash", String(64), primary_key=True),  # of the token that the browser has
    Column("user", ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("created", Float, nullable=False),
    Column("used", Float, nullable=False),
)  # fmt: skip
KEYS = Table(
    "keys", METADATA,
    Column("id", String(32), primary_key=True),
    Column("hash", String(64), unique=True, nullable=False),  # of the key itself
    Column("user", ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("name", String(64), nullable=False),
    Column("created", Float, nullable=False),
    Column("used", Float),
    *_counted(),
    UniqueConstraint("user", "name"),
)  # fmt: skip
VOTES = Table(
    "votes", METADATA,
    Column("id", String(32), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("plugin", String(200), nullable=False, index=True),
    Column("sides", Words, nullable=False),  # a JSON list of names
    Column("winner", Words),  # None = nobody was better
    Column("blind", Integer, nullable=False),
    Column("created", Float, nullable=False),
    Column("request", Json),  # what was filled in
    Column("replies", Json),  # one for each side
)  # fmt: skip
