"""What people filled in on forms, and the replies, <-> the database, written as they happen."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sql
from sqlalchemy import Connection

from lmapps.errors import InputError
from lmapps.sentence import Sentence
from lmapps.server.store.database import Database, check_owner
from lmapps.server.store.made import Made, made_from
from lmapps.server.store.tables import RUNS

KEPT = 200
"""One person's runs of one form; older ones go."""


class NoSuchRun(InputError):
    """A run that is not there, or is somebody else's."""

    status = 404


@dataclass(frozen=True)
class Run:
    """A form as it was filled in, and its reply."""

    id: str
    fields: dict[str, Any]
    reply: str
    finish: str | None
    """As of a turn; None while it is written, or where the server died meanwhile."""
    made: Made
    created: float
    """Seconds since 1970."""


class Runs:
    """The last runs of everybody. Every method may be called from any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, owner: str, plugin: str, fields: dict[str, Any]) -> str:
        """A run of which nothing is written yet; its id."""
        check_owner(owner)
        run = uuid.uuid4().hex
        values = {
            "id": run, "owner": owner, "plugin": plugin, "fields": fields, "reply": "",
            "created": time.time(),
        }  # fmt: skip
        with self._database.writing() as connection:
            connection.execute(RUNS.insert().values(values))
            _forget_old(connection, owner, plugin)
        return run

    def grow(
        self, run: str, reply: str, finish: str | None = None, made: Made | None = None
    ) -> None:
        """What the reply says by now; why it ended and what it took, if it did."""
        values: dict[str, Any] = {"reply": reply, "finish": finish}
        if made is not None:
            values["made"] = made.as_data()
        with self._database.writing() as connection:
            connection.execute(RUNS.update().where(RUNS.c.id == run).values(values))

    def last(self, owner: str, plugin: str, limit: int = 20) -> Sequence[Run]:
        """The newest first."""
        query = sql.select(*_COLUMNS).where(_of(owner, plugin), RUNS.c.deleted.is_(None))
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(RUNS.c.number.desc()).limit(limit))
            return [_run(row) for row in rows]

    def load(self, owner: str, run: str) -> Run:
        """One of the owner's. Raises `NoSuchRun`."""
        query = sql.select(*_COLUMNS).where(RUNS.c.id == run, RUNS.c.owner == owner)
        with self._database.reading() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise NoSuchRun(Sentence("this run is not there any more: fill in the form again"))
        return _run(row)

    def clear(self, owner: str, plugin: str) -> float:
        """Leave all of them out of the list; what `restore` needs to take that back."""
        now = time.time()
        change = RUNS.update().where(_of(owner, plugin), RUNS.c.deleted.is_(None))
        with self._database.writing() as connection:
            connection.execute(change.values(deleted=now))
        return now

    def restore(self, owner: str, plugin: str, cleared: float) -> None:
        """Take one clearing back."""
        change = RUNS.update().where(_of(owner, plugin), RUNS.c.deleted == cleared)
        with self._database.writing() as connection:
            connection.execute(change.values(deleted=None))


_COLUMNS = [RUNS.c[name] for name in ("id", "fields", "reply", "finish", "made", "created")]


def _run(row: Any) -> Run:
    return Run(row.id, row.fields, row.reply, row.finish, made_from(row.made), row.created)


def _of(owner: str, plugin: str) -> sql.ColumnElement[bool]:
    return sql.and_(RUNS.c.owner == owner, RUNS.c.plugin == plugin)


def _forget_old(connection: Connection, owner: str, plugin: str) -> None:
    """One person's runs of one form do not grow for ever."""
    newest = sql.select(RUNS.c.number).where(_of(owner, plugin)).order_by(RUNS.c.number.desc())
    oldest = connection.execute(newest.offset(KEPT).limit(1)).scalar_one_or_none()
    if oldest is not None:
        connection.execute(RUNS.delete().where(_of(owner, plugin), RUNS.c.number <= oldest))
