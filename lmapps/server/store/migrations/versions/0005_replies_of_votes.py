"""0004 -> a vote keeps what was asked and what was replied."""

from __future__ import annotations

import sqlalchemy as sql
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("votes", sql.Column("request", sql.JSON))
    op.add_column("votes", sql.Column("replies", sql.JSON))
