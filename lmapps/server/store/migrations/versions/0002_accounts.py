"""0001 -> users, their sessions and API keys."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sql
from alembic import op

revision = "0002"
down_revision = "0001"


def counted() -> list[sql.Column[Any]]:
    """Limits, and what was counted last."""
    return [
        sql.Column("requests_a_minute", sql.Integer),
        sql.Column("tokens_a_day", sql.Integer),
        *(
            sql.Column(name, sql.Integer, nullable=False)
            for name in ("minute", "requests", "day", "tokens")
        ),
    ]


def user() -> sql.Column[Any]:
    """Whose it is; it goes when they go."""
    owner = sql.ForeignKey("users.id", ondelete="CASCADE")
    return sql.Column("user", sql.String(32), owner, nullable=False)


def upgrade() -> None:
    op.create_table(
        "users",
        sql.Column("id", sql.String(32), primary_key=True),
        sql.Column("name", sql.String(64), unique=True, nullable=False),
        sql.Column("password", sql.String(200), nullable=False),
        sql.Column("role", sql.String(16), nullable=False),
        sql.Column("created", sql.Float, nullable=False),
        *counted(),
    )
    op.create_table(
        "sessions",
        sql.Column("hash", sql.String(64), primary_key=True),
        user(),
        sql.Column("created", sql.Float, nullable=False),
        sql.Column("used", sql.Float, nullable=False),
    )
    op.create_index("ix_sessions_user", "sessions", ["user"])
    op.create_table(
        "keys",
        sql.Column("id", sql.String(32), primary_key=True),
        sql.Column("hash", sql.String(64), unique=True, nullable=False),
        user(),
        sql.Column("name", sql.String(64), nullable=False),
        sql.Column("created", sql.Float, nullable=False),
        sql.Column("used", sql.Float),
        *counted(),
        sql.UniqueConstraint("user", "name"),
    )
    op.create_index("ix_keys_user", "keys", ["user"])
