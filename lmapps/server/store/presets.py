"""What a person keeps under a name, decoding settings and personas, <-> the database."""

from __future__ import annotations

import json
import time
from typing import Any

import sqlalchemy as sql

from lmapps.errors import InputError
from lmapps.server.store.database import Database, check_owner
from lmapps.server.store.tables import PRESETS

DECODING = "decoding"
"""The kind of decoding settings, which every application takes."""
LONGEST_NAME = 60
MOST = 200
"""Of one kind, one person's."""
LARGEST = 100_000
"""Characters of the values, as JSON."""

Values = dict[str, Any]


def fields_of(plugin: str) -> str:
    """The kind of what is filled in beside a plugin's conversation: its personas."""
    return f"fields of {plugin}"


class Presets:
    """Named values of several kinds. Every method may be called from any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, owner: str, kind: str) -> dict[str, Values]:
        """An owner's, by name, in the order of the names."""
        query = sql.select(PRESETS.c.name, PRESETS.c["values"])
        query = query.where(PRESETS.c.owner == owner, PRESETS.c.kind == kind)
        with self._database.reading() as connection:
            return {row[0]: row[1] for row in connection.execute(query.order_by(PRESETS.c.name))}

    def save(self, owner: str, kind: str, name: str, values: Values) -> str:
        """Keep values under a name, which may be there already; the name as it is kept.

        Raises `InputError` for a name that is empty or too long, and for more than there is
        room for.
        """
        check_owner(owner)
        name = " ".join(name.split())
        if not 1 <= len(name) <= LONGEST_NAME:
            raise InputError(
                "a name has 1 to {most} characters, got {count}: write one and save",
                most=LONGEST_NAME,
                count=len(name),
            )
        if (size := len(json.dumps(values))) > LARGEST:
            raise InputError(
                "{name} would take {size} characters, more than {most}: shorten it",
                name=name,
                size=size,
                most=LARGEST,
            )
        changes = {"values": values, "updated": time.time()}
        with self._database.writing() as connection:
            here = sql.and_(PRESETS.c.owner == owner, PRESETS.c.kind == kind)
            change = PRESETS.update().where(here, PRESETS.c.name == name).values(changes)
            if connection.execute(change).rowcount:
                return name
            count = connection.execute(sql.select(sql.func.count()).where(here)).scalar_one()
            if count >= MOST:
                raise InputError(
                    "{count} are saved already, and no more fit: delete some first", count=count
                )
            row = {"owner": owner, "kind": kind, "name": name, **changes}
            connection.execute(PRESETS.insert().values(row))
        return name

    def delete(self, owner: str, kind: str, name: str) -> None:
        """Forget one. Raises `InputError` where there is none of that name."""
        query = PRESETS.delete().where(
            PRESETS.c.owner == owner, PRESETS.c.kind == kind, PRESETS.c.name == name
        )
        with self._database.writing() as connection:
            if not connection.execute(query).rowcount:
                raise InputError(
                    "nothing is saved under the name {name!r}", name=name[:LONGEST_NAME]
                )
