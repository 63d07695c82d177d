"""People with a name and a password, their sessions and API keys <-> the database."""

from __future__ import annotations

import re
import time
import unicodedata
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import sqlalchemy as sql

from lmapps.errors import InputError
from lmapps.server.accounts.secrets import (
    check_password,
    hashed_password,
    hashed_token,
    is_password,
    new_key,
    new_token,
)
from lmapps.server.store.database import Database
from lmapps.server.store.tables import CONVERSATIONS, KEYS, METADATA, SESSIONS, TURNS, USERS

Role = Literal["user", "admin"]
NAME = r"[\w.@+-]{1,64}"
SESSION_SECONDS = 14 * 86_400
"""Who stays away for so long has to log in again."""
SEEN_SECONDS = 300
"""When somebody was seen last is written at most so often."""
MOST_KEYS = 50
ONLY_ADMIN = "{name} is the only admin: make somebody else one first"


class NoSuchUser(InputError):
    """A name that nobody has."""

    status = 404


@dataclass(frozen=True)
class Account:
    """Somebody who has come in."""

    id: str
    name: str
    role: Role
    key: str = ""
    """The id of the API key that was shown; '' = a session's cookie."""

    @property
    def owner(self) -> str:
        """What is written beside everything that is theirs. No browser's random name looks so."""
        return f"user:{self.id}"


@dataclass(frozen=True)
class Key:
    """An API key as its owner sees it later: never the key itself."""

    name: str
    created: float
    used: float | None
    """Seconds since 1970; None = never. Within five minutes."""


class Users:
    """All accounts in one database. Every method may be called from any thread.

    Raises `NoSuchUser` for a name that nobody has, `StorageError` as the database does.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def exist(self) -> bool:
        """Whether there is anybody: then everybody has to log in."""
        with self._database.reading() as connection:
            return connection.execute(sql.select(USERS.c.id).limit(1)).first() is not None

    def add(self, name: str, password: str, role: Role | None = None) -> Account:
        """A new one. Without a role the first is an admin, the others users.

        Raises `InputError` for a name that is taken or none, and a password that is too short.
        """
        name = cleaned_name(name)
        check_password(password, name)
        made, hashed = uuid.uuid4().hex, hashed_password(password)
        with self._database.writing() as connection:
            names = set(connection.execute(sql.select(USERS.c.name)).scalars())
            if name in names:
                raise InputError(f"there is a user {name!r} already: choose another name")
            role = role or ("user" if names else "admin")
            values = {"id": made, "name": name, "password": hashed, "role": checked_role(role)}
            connection.execute(USERS.insert().values(**values, created=time.time()))
        return Account(made, name, role)

    def everybody(self) -> Sequence[Any]:
        """A row for each, by name, with the columns of the table."""
        with self._database.reading() as connection:
            return connection.execute(sql.select(USERS).order_by(USERS.c.name)).all()

    def find(self, name: str) -> Account:
        with self._database.reading() as connection:
            return _account(connection.execute(_of_name(name)).one_or_none(), name)

    def remove(self, name: str) -> int:
        """With all that is theirs; how many conversations that is. The only admin goes last."""
        account = self.find(name)
        theirs = sql.select(CONVERSATIONS.c.id).where(CONVERSATIONS.c.owner == account.owner)
        with self._database.writing() as connection:
            if (others := _others(connection, account)) and "admin" not in others:
                raise InputError(ONLY_ADMIN.format(name=name))
            connection.execute(TURNS.delete().where(TURNS.c.conversation.in_(theirs)))
            gone = 0
            for table in reversed(METADATA.sorted_tables):
                if "owner" in table.c:
                    done = connection.execute(table.delete().where(table.c.owner == account.owner))
                    gone += done.rowcount if table is CONVERSATIONS else 0
            connection.execute(USERS.delete().where(USERS.c.id == account.id))
        return gone

    def set_password(self, name: str, password: str) -> None:
        """Another password; every session ends."""
        account = self.find(name)
        check_password(password, account.name)
        hashed = hashed_password(password)
        with self._database.writing() as connection:
            connection.execute(_user(account.id).values(password=hashed))
            connection.execute(SESSIONS.delete().where(SESSIONS.c.user == account.id))

    def set_role(self, name: str, role: str) -> None:
        """From the next request on. Raises `InputError` where nobody would be an admin any more."""
        account = self.find(name)
        with self._database.writing() as connection:
            if checked_role(role) != "admin" and "admin" not in _others(connection, account):
                raise InputError(ONLY_ADMIN.format(name=name))
            connection.execute(_user(account.id).values(role=role))

    def set_limits(self, name: str, **limits: int | None) -> None:
        """`requests_a_minute` and `tokens_a_day` of one user; None = the server's setting."""
        account = self.find(name)
        with self._database.writing() as connection:
            connection.execute(_user(account.id).values(**limits))

    # Coming in and going out.

    def known(self, name: str, password: str) -> Account | None:
        """Who has this name and this password; None takes as long, whichever is wrong."""
        with self._database.reading() as connection:
            row = connection.execute(_of_name(name)).one_or_none()
        fits = is_password(row.password if row else None, password)
        return _account(row, name) if row and fits else None

    def begin_session(self, account: Account) -> str:
        """The token that lets a browser in; only its hash is kept. Old sessions are forgotten."""
        token, now = new_token(), time.time()
        values = {"hash": hashed_token(token), "user": account.id, "created": now, "used": now}
        with self._database.writing() as connection:
            connection.execute(SESSIONS.delete().where(SESSIONS.c.used < now - SESSION_SECONDS))
            connection.execute(SESSIONS.insert().values(values))
        return token

    def end_session(self, token: str) -> None:
        """It lets nobody in any more."""
        with self._database.writing() as connection:
            connection.execute(SESSIONS.delete().where(SESSIONS.c.hash == hashed_token(token)))

    def of_session(self, token: str) -> Account | None:
        """Whose session it is."""
        since = time.time() - SESSION_SECONDS
        return self._of_token(SESSIONS, token, SESSIONS.c.used >= since)

    def of_key(self, key: str) -> Account | None:
        """Whose API key it is."""
        return self._of_token(KEYS, key)

    def _of_token(self, table: sql.Table, token: str, *also: Any) -> Account | None:
        hashed, now = hashed_token(token), time.time()
        has_id = [table.c.id] if "id" in table.c else []
        query = (
            sql.select(USERS.c.id, USERS.c.name, USERS.c.role, table.c.used, *has_id)
            .join_from(table, USERS, table.c.user == USERS.c.id)
            .where(table.c.hash == hashed, *also)
        )
        with self._database.reading() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        if (row.used or 0) < now - SEEN_SECONDS:
            with self._database.writing() as connection:
                connection.execute(table.update().where(table.c.hash == hashed).values(used=now))
        return Account(row[0], row.name, row.role, row[4] if has_id else "")

    # API keys.

    def add_key(self, user: str, name: str) -> str:
        """A new key, which cannot be read again. Raises `InputError` for a name that is taken."""
        account, name = self.find(user), name.strip()
        if not 1 <= len(name) <= 64:
            raise InputError(
                "a key's name has between 1 and 64 characters, got {count}", count=len(name)
            )
        key = new_key()
        with self._database.writing() as connection:
            names = list(connection.execute(_names_of_keys(account.id)).scalars())
            if name in names:
                raise InputError(
                    "{user} has a key {name!r} already: choose another name", user=user, name=name
                )
            if len(names) >= MOST_KEYS:
                raise InputError(
                    "{user} has {count} keys: revoke one first", user=user, count=len(names)
                )
            values = {"id": uuid.uuid4().hex, "hash": hashed_token(key), "user": account.id}
            connection.execute(KEYS.insert().values(**values, name=name, created=time.time()))
        return key

    def keys(self, user: str) -> list[Key]:
        """A user's keys, the oldest first."""
        query = sql.select(KEYS.c.name, KEYS.c.created, KEYS.c.used)
        query = query.where(KEYS.c.user == self.find(user).id).order_by(KEYS.c.created)
        with self._database.reading() as connection:
            return [Key(*row) for row in connection.execute(query)]

    def set_key_limits(self, user: str, name: str, **limits: int | None) -> None:
        """`requests_a_minute` and `tokens_a_day` of one key, within its user's; None = no own."""
        change = KEYS.update().where(_key(self.find(user).id, name)).values(**limits)
        with self._database.writing() as connection:
            if not connection.execute(change).rowcount:
                raise _no_key(user, name)

    def revoke(self, user: str, name: str) -> None:
        """The key lets nobody in any more. Raises `InputError` where there is none of that name."""
        chosen = (KEYS.c.user == self.find(user).id) & (KEYS.c.name == name)
        with self._database.writing() as connection:
            if not connection.execute(KEYS.delete().where(chosen)).rowcount:
                raise InputError(
                    f"{user} has no key {name!r}: `lmapps keys list {user}` shows them"
                )


def cleaned_name(name: str) -> str:
    """A name as it is kept: in small letters. Raises `InputError` for one that is none."""
    cleaned = normal_name(name)
    if not re.fullmatch(NAME, cleaned):
        raise InputError(
            f"a user's name has up to 64 letters, digits and the signs . @ + - _, got {name[:80]!r}"
        )
    return cleaned


def _others(connection: sql.Connection, account: Account) -> list[str]:
    """The roles of everybody else."""
    roles = sql.select(USERS.c.role).where(USERS.c.id != account.id)
    return list(connection.execute(roles).scalars())


def checked_role(role: str) -> Role:
    """Raises `InputError` for what is no role."""
    if role not in get_args(Role):
        raise InputError(f"a role is one of {', '.join(get_args(Role))}, got {role!r}")
    return role  # type: ignore[return-value]


def _of_name(name: str) -> sql.Select[Any]:
    cleaned = normal_name(name)
    if not re.fullmatch(NAME, cleaned):
        cleaned = ""  # nobody's, and not every text may be asked for
    return sql.select(USERS).where(USERS.c.name == cleaned)


def normal_name(name: str) -> str:
    """Every way to write a name -> one."""
    return unicodedata.normalize("NFKC", name).strip().lower()


def _names_of_keys(user: str) -> sql.Select[Any]:
    return sql.select(KEYS.c.name).where(KEYS.c.user == user)


def _key(user: str, name: str) -> sql.ColumnElement[bool]:
    return sql.and_(KEYS.c.user == user, KEYS.c.name == name)


def _no_key(user: str, name: str) -> InputError:
    return InputError(f"{user} has no key {name[:80]!r}: `lmapps keys list {user}` shows them")


def _user(id: str) -> sql.Update:
    return USERS.update().where(USERS.c.id == id)


def _account(row: Any, name: str) -> Account:
    if row is None:
        raise NoSuchUser(f"there is no user {name[:80]!r}: `lmapps users list` shows them")
    return Account(row.id, row.name, row.role)
