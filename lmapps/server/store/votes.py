"""Which of several replies somebody liked best <-> the database, and the sums."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sql

from lmapps.errors import InputError
from lmapps.server.store.database import Database
from lmapps.server.store.tables import VOTES


@dataclass(frozen=True)
class Tally:
    """How often something was chosen, over all plugins or one."""

    name: str
    """A model, and how it was asked."""
    shown: int
    won: int
    tied: int
    """Votes in which nobody was better."""

    @property
    def share(self) -> float:
        """Of the votes, with half of each tie."""
        return (self.won + self.tied / 2) / self.shown if self.shown else 0.0


class Votes:
    """All votes in one database. Every method may be called from any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, owner: str, plugin: str, sides: Sequence[str], winner: str | None, blind: bool,
        request: Mapping[str, Any] | None = None, replies: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Keep a vote.

        winner   None: nobody was better
        request  what was filled in, by the name of the field
        replies  one for each side

        Raises `InputError` where there are not two different sides, or the winner is none.
        """
        if len(set(sides)) != len(sides) or len(sides) < 2:
            raise InputError(f"a vote is between two different sides or more, got {list(sides)}")
        if winner is not None and winner not in sides:
            raise InputError(f"the winner must be one of {list(sides)}, got {winner!r}")
        values = {
            "id": uuid.uuid4().hex, "owner": owner, "plugin": plugin,
            "sides": json.dumps(list(sides), ensure_ascii=False), "winner": winner,
            "blind": int(blind), "created": time.time(), "request": request,
            "replies": list(replies) or None,
        }  # fmt: skip
        with self._database.writing() as connection:
            connection.execute(VOTES.insert().values(values))

    def tally(self, plugin: str | None = None) -> list[Tally]:
        """The sums of everybody's votes, the best first."""
        query = sql.select(VOTES.c.sides, VOTES.c.winner)
        if plugin is not None:
            query = query.where(VOTES.c.plugin == plugin)
        counts: dict[str, list[int]] = {}
        with self._database.reading() as connection:
            for stored, winner in connection.execute(query):
                for name in json.loads(stored):
                    count = counts.setdefault(name, [0, 0, 0])
                    count[0] += 1
                    count[1] += winner == name
                    count[2] += winner is None
        found = [Tally(name, *count) for name, count in counts.items()]
        return sorted(found, key=lambda tally: (-tally.share, -tally.shown, tally.name))
