"""How each reply was made; presets; runs of forms."""

from __future__ import annotations

import sqlalchemy as sql
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("turns", sql.Column("made", sql.JSON))
    op.create_table(
        "presets",
        sql.Column("owner", sql.String(64), primary_key=True),
        sql.Column("kind", sql.String(220), primary_key=True),
        sql.Column("name", sql.String(60), primary_key=True),
        sql.Column("values", sql.JSON, nullable=False),
        sql.Column("updated", sql.Float, nullable=False),
    )
    op.create_table(
        "runs",
        sql.Column("number", sql.Integer, primary_key=True, autoincrement=True),
        sql.Column("id", sql.String(32), unique=True, nullable=False),
        sql.Column("owner", sql.String(64), nullable=False),
        sql.Column("plugin", sql.String(200), nullable=False),
        sql.Column("fields", sql.JSON, nullable=False),
        sql.Column("reply", sql.Text, nullable=False),
        sql.Column("finish", sql.String(16)),
        sql.Column("made", sql.JSON),
        sql.Column("created", sql.Float, nullable=False),
        sql.Column("deleted", sql.Float),
    )
    op.create_index("runs_of_owner", "runs", ["owner", "plugin", "number"])
