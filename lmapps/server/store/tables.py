"""Every table of the database, and what a text in it may hold.

Another table, column or index: change it here, and add a file to `migrations/versions/` that
makes the same change to a database that is there already. A test compares the two.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sql
from sqlalchemy import Column, Float, ForeignKey, Index, Integer, String, Table
from sqlalchemy.types import TypeDecorator

METADATA = sql.MetaData()


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
)  # fmt: skip
