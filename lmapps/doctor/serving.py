"""The settings of `lmapps serve` -> whether a server could start with them on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing

from lmapps.doctor.finding import Finding
from lmapps.errors import LmappsError, SettingsError
from lmapps.server.settings import ServeSettings


def look_at_settings(
    read: Callable[[], ServeSettings],
) -> tuple[ServeSettings, list[Finding]]:
    """The settings as they are, or the usual ones where they hold a mistake."""
    try:
        settings = read()
    except SettingsError as error:
        way_out = "correct it there; `lmapps serve --help` says what each setting takes"
        return ServeSettings(), [Finding("settings", str(error), way_out, fatal=True)]
    usual = ServeSettings()
    changed = [name for name in vars(usual) if getattr(settings, name) != getattr(usual, name)]
    return settings, [Finding("settings", f"set: {', '.join(changed) or 'none'}")]


def look_at_serving(settings: ServeSettings) -> Iterator[Finding]:
    """The address, and who the server would run as."""
    try:
        settings.listen().close()
        yield Finding("address", settings.url)
    except SettingsError as error:
        told, _, way_out = str(error).rpartition(": ")
        yield Finding("address", told, way_out, fatal=True)
    yield from _open_to_all(settings)
    if hasattr(os, "geteuid") and os.geteuid() == 0 and not os.environ.get("CI"):
        told = "this is the user root: a plugin's mistake could change the whole machine"
        yield Finding("user", told, "run the server as a user of its own (deploy/lmapps.service)")


def _open_to_all(settings: ServeSettings) -> Iterator[Finding]:
    """Whom the server would let in."""
    from lmapps.server.accounts.access import access_of
    from lmapps.server.store.database import Database

    if settings.is_local or _has_accounts(settings.database):
        return
    try:
        access_of(settings, Database("sqlite://"))  # in memory: nobody has an account there either
    except SettingsError as error:
        told, _, way_out = str(error).partition(": ")
        yield Finding("accounts", told, way_out, fatal=True)
    else:
        told = "--public: whoever reaches this machine may use the server, without a limit"
        yield Finding("accounts", told, "make accounts: `lmapps users add NAME`")


def _has_accounts(url: str) -> bool:
    """Whether there is anybody in a database, which is left as it is."""
    import sqlalchemy as sql

    from lmapps.server.accounts.users import Users
    from lmapps.server.store.database import Database

    try:
        database = Database(url, as_it_is=True)
        if database.file and not database.file.exists():
            return False
        with closing(database), database.reading() as connection:
            return sql.inspect(connection).has_table("users") and Users(database).exist
    except LmappsError:  # told where the database is looked at
        return True
