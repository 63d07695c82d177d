"""0003 -> votes between replies side by side."""

from __future__ import annotations

import sqlalchemy as sql
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "votes",
        sql.Column("id", sql.String(32), primary_key=True),
        sql.Column("owner", sql.String(64), nullable=False),
        sql.Column("plugin", sql.String(200), nullable=False),
        sql.Column("sides", sql.Text, nullable=False),
        sql.Column("winner", sql.Text),
        sql.Column("blind", sql.Integer, nullable=False),
        sql.Column("created", sql.Float, nullable=False),
    )
    op.create_index("ix_votes_plugin", "votes", ["plugin"])
