"""Requests and tokens of accounts -> let through or refused; counted in the database.

Every reply of the engine goes through a `Metered` backend. A request is counted once, before it
is queued; tokens are counted as they are made, whatever becomes of the reply, and written every
second. A reply that has begun is not cut: the next one is refused.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, cast

import sqlalchemy as sql

from lmapps.decoding import Decoding
from lmapps.engine.backends.backend import Backend, Prompt
from lmapps.engine.reply import Reply, joined
from lmapps.engine.request import Delta
from lmapps.engine.scoring import Score
from lmapps.engine.turns import User
from lmapps.errors import Busy, StorageError
from lmapps.messages import Message
from lmapps.sentence import Sentence
from lmapps.server.accounts.usage import Usage
from lmapps.server.accounts.users import Account
from lmapps.server.store.aside import at_the_door
from lmapps.server.store.database import Database
from lmapps.server.store.tables import KEYS, USERS

MINUTE, DAY = 60, 86_400
WRITE_SECONDS = 1.0
"""Counted tokens are in the database after so long at most."""

Subject = tuple[sql.Table, str]
"""A user or a key: the table, and the id in it."""


class QuotaReached(Busy):
    """So many requests or tokens were allowed, and no more for now."""


class Payer(str):
    """An account as the engine knows those who take turns; one object for one request."""

    account: Account
    is_counted = False
    """Whether the request it stands for was let through already: a plugin asks several times."""

    def __new__(cls, account: Account) -> Payer:
        made = super().__new__(cls, f"user {account.id}")
        made.account = account
        return made

    @property
    def subjects(self) -> list[Subject]:
        """For whom it counts: the user, and the key that was shown."""
        key = self.account.key
        return [(USERS, self.account.id), *([(KEYS, key)] if key else [])]


@dataclass(frozen=True)
class Limits:
    """What one user may have where nothing else is set for them; 0 = as much as they like."""

    requests_a_minute: int = 0
    tokens_a_day: int = 0


class Quotas:
    """The counts of all accounts. Every method may be called from any thread, and all but `count`
    wait for the database."""

    def __init__(
        self, database: Database, limits: Limits, clock: Callable[[], float] = time.time
    ) -> None:
        self._database, self.limits, self._clock = database, limits, clock
        self._made: Counter[Subject] = Counter()
        self._turn, self._ended = threading.Lock(), threading.Event()
        self._writing = threading.Thread(target=self._write, name="quotas", daemon=True)
        self._writing.start()

    def close(self) -> None:
        """Write what was counted, and end."""
        self._ended.set()
        self._writing.join()

    def metered(self, backend: Backend) -> Backend:
        """The same backend; what it does for an account is counted and limited."""
        return cast(Backend, Metered(backend, self))

    def admit(self, payer: Payer) -> None:
        """Let one more prompt through; the first of a request counts as one. Raises
        `QuotaReached`."""
        self.flush()
        with self._database.writing() as connection:
            rows = [(subject, _row(connection, subject, True)) for subject in payer.subjects]
            used = [(subject, self._usage(subject, row)) for subject, row in rows if row]
            for subject, usage in used:
                _check(subject, usage, payer.is_counted)
            if not payer.is_counted:
                for subject, usage in used:
                    values = {"minute": self._now(MINUTE), "requests": usage.requests + 1}
                    connection.execute(_of(subject).values(values))
            payer.is_counted = True  # while nobody else has the rows: prompts come side by side

    def count(self, payer: Payer, tokens: int) -> None:
        """So many tokens more were made."""
        with self._turn:
            for subject in payer.subjects:
                self._made[subject] += tokens

    def flush(self) -> None:
        """Write what was counted by now."""
        with self._turn:
            made, self._made = self._made, Counter()
        if not made:
            return
        day = self._now(DAY)
        try:
            with self._database.writing() as connection:
                # Users before keys, as `admit` takes them: nobody waits for somebody who waits.
                for (table, id), tokens in sorted(made.items(), key=_in_order):
                    since = sql.case((table.c.day == day, table.c.tokens), else_=0)
                    connection.execute(_of((table, id)).values(day=day, tokens=since + tokens))
        except StorageError:
            with self._turn:
                self._made += made
            raise

    def usage(self, account: Account) -> list[Usage]:
        """What a user has had by now, and what the key has that was shown."""
        self.flush()
        with self._database.reading() as connection:
            subjects = Payer(account).subjects
            rows = [(one, _row(connection, one)) for one in subjects]
        return [self._usage(subject, row) for subject, row in rows if row]

    def of_keys(self, account: Account) -> Mapping[str, Usage]:
        """What each of a user's keys has had, by its name, of what it may have itself."""
        self.flush()
        with self._database.reading() as connection:
            rows = connection.execute(sql.select(KEYS).where(KEYS.c.user == account.id)).all()
        return {row.name: self._usage((KEYS, row.id), row) for row in rows}

    def _usage(self, subject: Subject, row: Any) -> Usage:
        ours = self.limits if subject[0] is USERS else Limits()
        now = self._clock()
        return Usage(
            row.requests if row.minute == self._now(MINUTE) else 0,
            _first(row.requests_a_minute, ours.requests_a_minute),
            row.tokens if row.day == self._now(DAY) else 0,
            _first(row.tokens_a_day, ours.tokens_a_day),
            MINUTE - int(now % MINUTE),
            DAY - int(now % DAY),
        )

    def _now(self, span: int) -> int:
        """The number of the minute or day, since 1970."""
        return int(self._clock() // span)

    def _write(self) -> None:
        while not self._ended.wait(WRITE_SECONDS):
            self._try_to_flush()
        self._try_to_flush()

    def _try_to_flush(self) -> None:
        with suppress(StorageError):  # whoever asks next is told; what was counted is kept so long
            self.flush()


class Metered:
    """A backend whose replies to accounts are counted; all else is the backend's own."""

    def __init__(self, backend: Backend, quotas: Quotas) -> None:
        self._backend, self._quotas = backend, quotas

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    async def stream(
        self, prompt: Prompt, decoding: Decoding, user: User = None
    ) -> AsyncGenerator[Delta, None]:
        """As the backend does. Raises `QuotaReached` before the prompt is queued."""
        if isinstance(user, Payer):
            await at_the_door(self._quotas.admit, user)
        counted = 0
        async with aclosing(self._backend.stream(prompt, decoding, user)) as deltas:
            async for delta in deltas:
                new = _new_tokens(delta, counted)
                if isinstance(user, Payer) and new:
                    self._quotas.count(user, new)
                counted += new
                yield delta

    async def complete(self, prompt: Prompt, decoding: Decoding, user: User = None) -> Reply:
        return joined([delta async for delta in self.stream(prompt, decoding, user)])

    async def score(self, messages: Sequence[Message], reply: str, user: User = None) -> Score:
        """As the backend does; it costs what writing the reply did, also for whoever leaves."""
        if not isinstance(user, Payer):
            return await self._backend.score(messages, reply, user)
        await at_the_door(self._quotas.admit, user)
        tokens = 0
        try:
            score = await self._backend.score(messages, reply, user)
            tokens = len(score.tokens)
            return score
        except asyncio.CancelledError:
            tokens = self._backend.measure(reply)  # how far it came is not told
            raise
        finally:
            self._quotas.count(user, tokens)


def _new_tokens(delta: Delta, counted: int) -> int:
    """How many tokens of a reply a delta adds to those that were counted. Another server tells how
    many there were at the end alone: until then a piece of text is one."""
    if delta.usage:
        return max(0, delta.usage.completion_tokens - counted)
    is_piece = delta.text and delta.finish not in ("cancelled", "error")  # else it was held back
    return len(delta.ids) or int(bool(is_piece))


def _check(subject: Subject, usage: Usage, is_counted: bool) -> None:
    whose = Sentence("you have" if subject[0] is USERS else "this API key has")
    if usage.tokens_a_day and usage.tokens >= usage.tokens_a_day:
        raise QuotaReached(
            "{whose} had {tokens:,} tokens today, of {most:,} that are allowed a day: try "
            "again after midnight UTC, in {time}",
            usage.new_day,
            whose=whose,
            tokens=usage.tokens,
            most=usage.tokens_a_day,
            time=_hours(usage.new_day),
        )
    if not is_counted and 0 < usage.requests_a_minute <= usage.requests:
        raise QuotaReached(
            "{whose} made {requests} requests in this minute, as many as are allowed: try "
            "again in {seconds} seconds",
            usage.new_minute,
            whose=whose,
            requests=usage.requests,
            seconds=usage.new_minute,
        )


def _hours(seconds: int) -> Sentence:
    hours, minutes = divmod(-(-seconds // 60), 60)
    return Sentence(
        "{hours} h {minutes} min" if hours else "{minutes} min", hours=hours, minutes=minutes
    )


def _first(own: int | None, usual: int) -> int:
    return usual if own is None else own


def _in_order(counted: tuple[Subject, int]) -> tuple[bool, str]:
    table, id = counted[0]
    return table is KEYS, id


def _row(connection: sql.Connection, subject: Subject, lock: bool = False) -> Any:
    """A subject's counts; with `lock` nobody else changes them until the end of the transaction."""
    table, id = subject
    query = sql.select(table).where(table.c.id == id)
    return connection.execute(query.with_for_update() if lock else query).one_or_none()


def _of(subject: Subject) -> sql.Update:
    table, id = subject
    return table.update().where(table.c.id == id)
