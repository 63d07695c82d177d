"""Nothing -> conversations and turns, as the first release made them without Alembic."""

from __future__ import annotations

import sqlalchemy as sql
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Where they are there already, they are left as they are."""
    op.create_table(
        "conversations",
        sql.Column("id", sql.String(32), primary_key=True),
        sql.Column("owner", sql.String(64), nullable=False),
        sql.Column("plugin", sql.String(200), nullable=False),
        sql.Column("title", sql.Text, nullable=False),
        sql.Column("leaf", sql.String(32)),
        sql.Column("updated", sql.Float, nullable=False),
        sql.Column("deleted", sql.Float),
        if_not_exists=True,
    )
    op.create_index(
        "conversations_of_owner", "conversations", ["owner", "plugin", "updated"],
        if_not_exists=True,
    )  # fmt: skip
    op.create_table(
        "turns",
        sql.Column("number", sql.Integer, primary_key=True, autoincrement=True),
        sql.Column("id", sql.String(32), unique=True, nullable=False),
        sql.Column(
            "conversation", sql.String(32), sql.ForeignKey("conversations.id"), nullable=False
        ),
        sql.Column("parent", sql.String(32)),
        sql.Column("role", sql.String(16), nullable=False),
        sql.Column("content", sql.Text, nullable=False),
        sql.Column("author", sql.String(16), nullable=False),
        sql.Column("finish", sql.String(16)),
        sql.Column("rating", sql.Integer),
        sql.Column("created", sql.Float, nullable=False),
        if_not_exists=True,
    )
    op.create_index("ix_turns_conversation", "turns", ["conversation"], if_not_exists=True)
