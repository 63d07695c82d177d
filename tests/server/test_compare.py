"""Several ways of asking at once: shown together, ended together, and voted about."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql

from lmapps.engine.application import Clear, Done, Event, Notice, Progress, Reading, Text, Waiting
from lmapps.errors import Busy, InputError
from lmapps.server.page.live import Took, View, grown
from lmapps.server.page.presets import BALANCED
from lmapps.server.page.workshop.ballot import WAYS, sides_of, took
from lmapps.server.page.workshop.sides import side_by_side
from lmapps.server.store.database import Database
from lmapps.server.store.tables import VOTES
from lmapps.server.store.votes import Votes


async def quick() -> AsyncGenerator[Event, None]:
    for text in ("step", "A", "B"):
        yield Text(text)
        if text == "step":
            yield Clear()
    yield Done("AB.", "AB.", "length", 3, 5)


async def broken() -> AsyncGenerator[Event, None]:
    yield Text("half")
    raise Busy("too many")


def news_of(*asks: Any) -> list[tuple[View, ...]]:
    async def collect() -> list[tuple[View, ...]]:
        return [sides async for sides in side_by_side(asks)]

    return asyncio.run(collect())


def test_all_sides_are_told_to_their_end_and_an_error_is_a_line_on_its_side() -> None:
    *_, (good, bad) = news_of(quick, broken)
    assert good.done and good.text == "AB." and "tokens a second" in took(good)
    assert "cut at its longest" in good.status and not good.failed
    assert bad.done and bad.failed and bad.text == "half" and bad.status == "⚠ Too many."


def test_a_wait_and_what_is_left_out_are_told_as_in_a_chat() -> None:
    async def late() -> AsyncGenerator[Event, None]:
        yield Waiting(2)
        yield Reading(8, 90)
        yield Progress(1, 3)
        yield Notice("Two messages are left out.")
        yield Text("A")
        yield Done("A", "A", "length", 90, 1)

    async def told() -> list[str]:
        return [view.status async for view in grown(late)]

    left_out = "Two messages are left out."
    assert asyncio.run(told()) == [
        "Waiting: number 2 in the queue.", "Reading: 8 of 90 tokens.",
        "Reading in parts: 1 of 3 done.", left_out, left_out,
        f"{left_out} The reply was cut at its longest length.",
    ]  # fmt: skip
    assert left_out in news_of(late)[-1][0].status


def test_news_are_told_together_and_not_for_each_token() -> None:
    async def many() -> AsyncGenerator[Event, None]:
        for _ in range(500):
            yield Text("x")
        yield Done("x" * 500, None, "stop", 1, 500)

    assert len(news_of(many, many)) < 10


def test_the_end_is_told_to_who_was_busy_when_it_came() -> None:
    ended = asyncio.Event()

    async def ends_meanwhile() -> AsyncGenerator[Event, None]:
        yield Text("x")
        await ended.wait()
        yield Done("x.", "x.", "stop", 1, 2)

    async def read() -> View:
        async for (side,) in side_by_side([ends_meanwhile]):
            if side.text:  # the page draws this while the reply ends
                ended.set()
                await asyncio.sleep(0.05)
        return side

    last = asyncio.run(read())
    assert last.done and last.text == "x."


def test_whoever_leaves_ends_every_side() -> None:
    ended = list[str]()

    async def endless(name: str) -> AsyncGenerator[Event, None]:
        try:
            while True:
                yield Text(name)
                await asyncio.sleep(0)
        finally:
            ended.append(name)

    async def leave() -> None:
        news = side_by_side([lambda: endless("a"), lambda: endless("b")])
        await anext(news)
        await anext(news)
        await news.aclose()
        assert sorted(ended) == ["a", "b"]

    asyncio.run(leave())


def test_sides_are_two_different_ones_at_least() -> None:
    def chosen(*names: str, blind: bool = False) -> list[tuple[str, str]]:
        sides = sides_of(names, (BALANCED, "Precise", BALANCED), WAYS, blind)
        return [(side.model, side.way) for side in sides]

    assert chosen("m", "m", "") == [("m", BALANCED), ("m", "Precise")]
    every = zip("abc", (BALANCED, "Precise", BALANCED), strict=True)
    assert {*chosen("a", "b", "c", blind=True)} == {*every}
    with pytest.raises(InputError, match="two models at least"):
        chosen("m", "", "")
    with pytest.raises(InputError, match="two sides are the same"):
        chosen("m", "", "m")


def test_a_persons_own_preset_is_a_side_told_by_its_settings() -> None:
    known = {**WAYS, "My secret": {"temperature": 1.5, "top_k": 3}, "As ever": {}}
    names = ("m", "m", "m")
    sides = sides_of(names, (BALANCED, "Precise", "My secret"), known, False)
    assert [side.label for side in sides] == [
        "m", "m, precise", "m, temperature = 1.5, top_k = 3",
    ]  # fmt: skip
    assert sides[2].values == known["My secret"]
    with pytest.raises(InputError, match="two sides are the same"):
        sides_of(names, (BALANCED, "As ever", "Precise"), known, False)
    with pytest.raises(InputError, match="Gone is not saved any more"):
        sides_of(names, (BALANCED, "Gone", "Precise"), known, False)


def test_what_a_side_took_is_told_as_far_as_it_is_known() -> None:
    assert took(View()) == ""
    assert took(View(first_token=0.5)) == "first token after 0.50 s"
    whole = View(first_token=0.5, took=Took("", 3, 43, 1.0))
    assert took(whole) == "first token after 0.50 s · 42 tokens a second"


def test_votes_are_kept_and_summed(database_url: str) -> None:
    database, other = Database(database_url), Database(database_url)
    votes = Votes(database)
    votes.add("ann", "chat", ["a", "b"], "a", True)
    votes.add("bob", "chat", ["b", "a", "c"], "a", False)
    votes.add("bob", "chat", ["a", "b"], None, False)
    votes.add("bob", "news", ["a", "b"], "b", False)
    found = {tally.name: tally for tally in Votes(other).tally("chat")}
    assert list(found) == ["a", "b", "c"]
    assert (found["a"].won, found["a"].tied, found["a"].shown) == (2, 1, 3)
    assert found["a"].share == pytest.approx(2.5 / 3) and found["c"].share == 0
    assert sum(tally.shown for tally in votes.tally()) == 9
    database.close()
    other.close()


def test_a_vote_keeps_what_was_asked_and_what_was_replied(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'votes.db'}")
    votes, request = Votes(database), {"text": "Hi", "lines": 2}
    votes.add("ann", "chat", ["a", "b"], "a", True, request, ["Hello", "你好"])
    votes.add("ann", "chat", ["a", "b"], "a", True)
    with database.reading() as connection:
        kept = sql.select(VOTES.c.request, VOTES.c.replies).order_by(VOTES.c.created)
        assert connection.execute(kept).all() == [(request, ["Hello", "你好"]), (None, None)]


@pytest.mark.parametrize(
    ("sides", "winner"), [(["a"], "a"), (["a", "a"], "a"), (["a", "b"], "c"), ([], None)]
)
def test_a_vote_that_is_none_is_refused(tmp_path: Path, sides: list[str], winner: Any) -> None:
    with pytest.raises(InputError):
        Votes(Database(f"sqlite:///{tmp_path / 'v.db'}")).add("ann", "chat", sides, winner, False)
