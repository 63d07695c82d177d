"""Requests a minute and tokens a day: counted before the queue and as they are made, and kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any, cast

import httpx
import pytest

from lmapps.decoding import Decoding
from lmapps.engine.backends import openai
from lmapps.engine.backends.openai import OpenAIBackend
from lmapps.engine.request import Delta
from lmapps.engine.scoring import Score, ScoredToken
from lmapps.errors import ModelServerError
from lmapps.server.accounts import secrets
from lmapps.server.accounts.quotas import Limits, Payer, QuotaReached, Quotas
from lmapps.server.accounts.usage import headers_of
from lmapps.server.accounts.users import Account, Users
from lmapps.server.store.database import Database

MIDNIGHT = 20_000 * 86_400.0


class Clock:
    """A time that goes when it is told to."""

    now = MIDNIGHT + 30

    def __call__(self) -> float:
        return self.now


class Backend:
    """Replies of as many tokens as the prompt says; knows how often it was asked."""

    name = "fake"
    asked = 0

    async def stream(
        self, prompt: Any, decoding: Decoding, user: Any = None
    ) -> AsyncGenerator[Delta, None]:
        self.asked += 1
        for number in range(prompt):
            yield Delta("x", (number,), "length" if number == prompt - 1 else None)
            await asyncio.sleep(0)


@pytest.fixture
def database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.setattr(secrets, "hashed_password", lambda password: "none")
    monkeypatch.setattr("lmapps.server.accounts.users.hashed_password", lambda password: "none")
    database = Database(database_url)
    for name in ("ann", "bob"):
        Users(database).add(name, "correct horse")
    yield database
    database.close()


class Server:
    """Quotas, a backend behind them, and a time."""

    def __init__(self, database: Database, **limits: int) -> None:
        self.clock, self.backend = Clock(), Backend()
        self.users = Users(database)
        self.quotas = Quotas(database, Limits(**limits), self.clock)
        self.metered = self.quotas.metered(cast(Any, self.backend))

    def ask(self, account: Account, tokens: int = 1, times: int = 1) -> None:
        """One request, whose plugin asks so often."""
        payer = Payer(account)

        async def all_of_it() -> None:
            for _ in range(times):
                await self.metered.complete(tokens, Decoding(), payer)

        asyncio.run(all_of_it())


@pytest.fixture
def server(database: Database) -> Iterator[Server]:
    made = Server(database, requests_a_minute=3, tokens_a_day=100)
    yield made
    made.quotas.close()


def test_requests_of_a_minute_are_let_through_and_no_more(server: Server) -> None:
    ann, bob = server.users.find("ann"), server.users.find("bob")
    for _ in range(3):
        server.ask(ann)
    with pytest.raises(
        QuotaReached, match=r"made 3 requests in this minute.*in 30 seconds"
    ) as told:
        server.ask(ann)
    assert told.value.retry_after == 30 and told.value.status == 429
    assert server.backend.asked == 3, "it never reaches the engine"
    server.ask(bob)
    server.clock.now += 30
    server.ask(ann)


def test_a_plugin_that_asks_often_is_one_request(server: Server) -> None:
    server.ask(server.users.find("ann"), times=20)
    (usage,) = server.quotas.usage(server.users.find("ann"))
    assert (usage.requests, usage.tokens) == (1, 20)


def test_prompts_side_by_side_are_one_request(server: Server) -> None:
    payer = Payer(server.users.find("ann"))

    async def side_by_side() -> None:
        await asyncio.gather(*(server.metered.complete(1, Decoding(), payer) for _ in range(8)))

    asyncio.run(side_by_side())
    (usage,) = server.quotas.usage(payer.account)
    assert (usage.requests, usage.tokens) == (1, 8)


def test_tokens_of_a_day_are_counted_until_midnight(server: Server) -> None:
    ann = server.users.find("ann")
    server.ask(ann, 99)
    server.ask(ann, 50)  # one is left, so it may begin, and what has begun is finished
    with pytest.raises(QuotaReached, match="had 149 tokens today, of 100") as told:
        server.ask(ann)
    assert told.value.retry_after == 86_400 - 30
    with pytest.raises(QuotaReached):
        server.ask(ann, times=2)
    server.clock.now = MIDNIGHT + 86_400
    server.ask(ann)
    (usage,) = server.quotas.usage(ann)
    assert usage.tokens == 1


def test_a_reply_that_is_cancelled_counts_as_far_as_it_came(server: Server) -> None:
    payer = Payer(server.users.find("ann"))

    async def leave_early() -> None:
        async with aclosing(server.metered.stream(90, Decoding(), payer)) as deltas:
            async for delta in deltas:
                if delta.ids == (9,):
                    break

    asyncio.run(leave_early())
    (usage,) = server.quotas.usage(payer.account)
    assert usage.tokens == 10


def test_counts_survive_a_new_start_and_are_the_same_for_every_server(
    server: Server, database: Database
) -> None:
    ann = server.users.find("ann")
    server.ask(ann, 40)
    server.quotas.close()
    again = Server(database, requests_a_minute=3, tokens_a_day=100)
    again.ask(ann, 60)
    with pytest.raises(QuotaReached):
        again.ask(ann)
    again.quotas.close()
    (usage,) = again.quotas.usage(ann)
    assert (usage.requests, usage.tokens) == (2, 100)


def test_a_users_own_limits_go_before_the_servers(server: Server) -> None:
    ann, bob = server.users.find("ann"), server.users.find("bob")
    server.users.set_limits("ann", tokens_a_day=5, requests_a_minute=0)
    for _ in range(5):
        server.ask(ann)
    with pytest.raises(QuotaReached, match="of 5 that are allowed"):
        server.ask(ann)
    server.users.set_limits("ann", tokens_a_day=None)
    server.ask(ann)
    server.ask(bob, 90)


def test_a_key_counts_for_itself_and_for_its_user(server: Server, database: Database) -> None:
    keys = [server.users.of_key(server.users.add_key("ann", name)) for name in ("one", "two")]
    assert keys[0] and keys[1]
    server.users.set_key_limits("ann", "one", requests_a_minute=1)
    server.ask(keys[0], 10)
    with pytest.raises(QuotaReached, match="this API key has made 1 requests"):
        server.ask(keys[0])
    server.ask(keys[1], 20)
    by_user, by_key = server.quotas.usage(keys[1])
    assert (by_user.requests, by_user.tokens) == (2, 30)
    assert (by_key.requests, by_key.tokens) == (1, 20)
    assert by_key.requests_a_minute == 0, "the server's limit is the user's, over all keys"


def test_what_is_left_is_told_in_headers_by_the_tightest_limit(server: Server) -> None:
    ann = server.users.find("ann")
    server.ask(ann, 7)
    assert headers_of(server.quotas.usage(ann)) == {
        "x-ratelimit-limit-requests": "3",
        "x-ratelimit-remaining-requests": "2",
        "x-ratelimit-reset-requests": "30s",
        "x-ratelimit-limit-tokens": "100",
        "x-ratelimit-remaining-tokens": "93",
        "x-ratelimit-reset-tokens": "86370s",
    }
    server.users.set_limits("ann", requests_a_minute=0, tokens_a_day=0)
    assert headers_of(server.quotas.usage(ann)) == {}


def test_who_has_no_account_is_not_counted(server: Server) -> None:
    for user in (None, "page x"):
        reply = asyncio.run(server.metered.complete(500, Decoding(), user))
        assert len(reply.ids) == 500
    assert server.metered.name == "fake", "all else is the backend's own"


def test_scoring_a_reply_costs_what_writing_it_did(server: Server) -> None:
    async def score(*_: Any) -> Score:
        return Score((ScoredToken(1, "a", False, 0.5, ()),) * 100)

    server.backend.score = score  # type: ignore[attr-defined]
    ann = server.users.find("ann")
    asyncio.run(server.metered.score([], "a reply", Payer(ann)))
    (usage,) = server.quotas.usage(ann)
    assert (usage.requests, usage.tokens) == (1, 100)
    with pytest.raises(QuotaReached, match="100 tokens today"):
        asyncio.run(server.metered.score([], "a reply", Payer(ann)))


# Another server's model, which tells of no ids.

END = {"choices": [{"finish_reason": "length"}], "usage": {"completion_tokens": 25}}


def answer_with(monkeypatch: pytest.MonkeyPatch, pieces: int, *after: dict[str, Any]) -> Any:
    """A model whose server sends so many pieces of text, and what comes after."""
    text = {"choices": [{"delta": {"content": "x"}}]}
    lines = [f"data: {json.dumps(event)}\n\n" for event in [text] * pieces + [*after]]
    answer = httpx.MockTransport(lambda _: httpx.Response(200, text="".join(lines)))
    client = httpx.AsyncClient
    monkeypatch.setattr(httpx, "AsyncClient", lambda **_: client(transport=answer))
    return OpenAIBackend("far", "http://far.example/v1", "m")


def test_another_servers_reply_costs_what_that_server_counted(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    metered = server.quotas.metered(answer_with(monkeypatch, 20, END))
    payer = Payer(server.users.find("ann"))
    asyncio.run(metered.complete(metered.read("Hi"), Decoding(), payer))
    assert server.quotas.usage(payer.account)[0].tokens == 25


def test_who_leaves_another_servers_reply_pays_for_what_came(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    metered = server.quotas.metered(answer_with(monkeypatch, 20, END))
    payer = Payer(server.users.find("ann"))

    async def leave_early() -> None:
        async with aclosing(metered.stream(metered.read("Hi"), Decoding(), payer)) as deltas:
            for _ in range(10):
                await anext(deltas)

    asyncio.run(leave_early())
    assert server.quotas.usage(payer.account)[0].tokens == 10


def test_another_servers_reply_that_breaks_off_or_takes_too_long_is_paid_for(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    payer = Payer(server.users.find("ann"))
    metered = server.quotas.metered(answer_with(monkeypatch, 20))
    with pytest.raises(ModelServerError, match="in the middle of a reply"):
        asyncio.run(metered.complete(metered.read("Hi"), Decoding(), payer))
    assert server.quotas.usage(payer.account)[0].tokens == 20
    monkeypatch.setattr(openai, "LONGEST_SECONDS", -1)
    reply = asyncio.run(metered.complete(metered.read("Hi"), Decoding(), payer))
    assert reply.text == "x" and reply.finish == "length"
    assert server.quotas.usage(payer.account)[0].tokens == 21


def test_who_leaves_while_a_reply_is_scored_pays_for_it(server: Server) -> None:
    async def score(*_: Any) -> Score:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def leave() -> None:
        scoring = asyncio.create_task(server.metered.score([], "a reply", Payer(ann)))
        await begun.wait()
        scoring.cancel()
        await asyncio.wait([scoring])

    ann, begun = server.users.find("ann"), asyncio.Event()
    server.backend.score, server.backend.measure = score, len  # type: ignore[attr-defined]
    asyncio.run(leave())
    assert server.quotas.usage(ann)[0].tokens == len("a reply")
