"""A database that is in use <-> one file: a copy that is whole, and the way back."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

import sqlalchemy as sql

from lmapps.errors import InputError, StorageError
from lmapps.server.store.database import Database, located

PAGES = 2000
"""SQLite copies so many pages at a time; in between others may write."""


def back_up(database: Database, file: Path) -> None:
    """Write a copy, as of one moment, while the server goes on; readable by its owner alone, since
    it holds conversations and the hashes of passwords.

    SQLite is copied through its own online backup, PostgreSQL by `pg_dump` (its custom format).
    Raises `InputError` where the file is there already, or no database of ours is, `StorageError`
    where it cannot be written.
    """
    if file.exists():
        raise InputError(f"{file} is there already: give the backup another name")
    _check_there(database)
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        if database.file:
            _copy(database.file, partial)
            _check(partial)
        else:
            _dump(database, partial)
        with partial.open("rb+") as written:
            os.fsync(written.fileno())
        partial.rename(file)
    except (OSError, sqlite3.Error) as error:
        raise StorageError(f"the backup {file} cannot be written ({error})") from None
    finally:
        for leftover in (partial, *_beside(partial)):
            leftover.unlink(missing_ok=True)


def _check_there(database: Database) -> None:
    nothing = "there is no database of lmapps in {place}: check LMAPPS_HOME and --database"
    if database.file and not database.file.is_file():
        raise InputError(nothing.format(place=database.file))
    with database.reading() as connection:
        if not sql.inspect(connection).has_table("conversations"):
            raise InputError(nothing.format(place=database.place))


def restore(file: Path, url: str) -> tuple[Path, Path | None]:
    """Put a backup in the place of an SQLite database that nobody has open. Returns that place,
    and the file beside it that now keeps what was there, sound or not.

    The next start brings it to this program's version. Raises `InputError` where the file is no
    backup, and for PostgreSQL, whose own `pg_restore` does it; `StorageError` where the database
    is in use or cannot be written.
    """
    place = located(url)
    if place.get_backend_name() != "sqlite":
        raise InputError(
            "a backup of PostgreSQL is brought back by its own program, into an empty database: "
            f"`pg_restore --no-owner --dbname=URL {file}`"
        )
    try:
        _check(file)
    except (OSError, sqlite3.Error) as error:
        raise InputError(f"{file} is no backup that can be read ({error})") from None
    target = Path(str(place.database))
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    kept: Path | None = None
    try:
        _copy_private(file, partial)
        if target.exists():
            kept = _put_aside(target)
        for leftover in _beside(target):  # of one that was deleted: it would be put into this one
            leftover.unlink(missing_ok=True)
        partial.replace(target)
    except (OSError, sqlite3.Error) as error:
        if kept is not None:
            _put_back(kept, target)
        raise StorageError(
            f"the database {target} cannot be written ({error}): what was there is there still"
        ) from None
    finally:
        for leftover in (partial, *_beside(partial)):
            leftover.unlink(missing_ok=True)
    return target, kept


def _copy_private(file: Path, copy: Path) -> None:
    """A sound copy on the disk, its owner's alone: the folder's, where root makes it."""
    os.close(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        owner = copy.parent.stat()
        os.chown(copy, owner.st_uid, owner.st_gid)
    shutil.copyfile(file, copy)
    _check(copy)
    with copy.open("rb+") as written:
        os.fsync(written.fileno())


def _put_aside(target: Path) -> Path:
    """Give a database that nobody has open another name too, and what SQLite keeps beside it that
    name alone: at no time is there none, from which a start would make one without accounts."""
    try:
        with closing(sqlite3.connect(target, timeout=1)) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")  # only for whoever is alone
    except sqlite3.OperationalError as error:
        raise StorageError(f"{target} is in use ({error}): stop the server first") from None
    except sqlite3.DatabaseError:
        pass  # it is broken: the more reason for a backup
    kept = target.with_name(f"{target.name}.{time.strftime('%Y%m%d-%H%M%S')}.before")
    try:
        os.link(target, kept)
    except OSError:  # a file system that has no second names
        target.rename(kept)
    for before, after in zip(_beside(target), _beside(kept), strict=True):
        if before.exists():
            before.rename(after)
    return kept


def _put_back(kept: Path, target: Path) -> None:
    """As it was before `_put_aside`."""
    for after, before in zip((kept, *_beside(kept)), (target, *_beside(target)), strict=True):
        if before.exists():
            after.unlink(missing_ok=True)
        elif after.exists():
            after.rename(before)


def _copy(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as read, closing(sqlite3.connect(target)) as written:
        read.backup(written, pages=PAGES)


def _check(file: Path) -> None:
    """Raises where a file is no sound database of ours."""
    with closing(
        sqlite3.connect(f"{file.absolute().as_uri()}?immutable=1", uri=True)
    ) as connection:
        (found,) = connection.execute("PRAGMA integrity_check").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(found)
        connection.execute("SELECT count(*) FROM conversations").fetchone()


def _dump(database: Database, file: Path) -> None:
    program = shutil.which("pg_dump")
    if program is None:
        raise StorageError(
            "the program pg_dump is not here: install PostgreSQL's client "
            "(`apt-get install postgresql-client`), or back up on the database's own machine"
        )
    url = database.url
    secret = url.password or url.query.get("password")
    # Everybody on the machine may read a program's arguments.
    bare = url.difference_update_query(["password"])._replace(password=None)
    address = bare.set(drivername="postgresql").render_as_string()
    environment = os.environ | ({"PGPASSWORD": str(secret)} if secret else {})
    words = [program, "--format=custom", "--no-owner", f"--file={file}", f"--dbname={address}"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise StorageError(f"pg_dump failed: {done.stderr.strip().splitlines()[-1]}")


def _beside(file: Path) -> list[Path]:
    """What SQLite keeps beside a database while it is open."""
    return [Path(f"{file}-wal"), Path(f"{file}-shm"), Path(f"{file}-journal")]
