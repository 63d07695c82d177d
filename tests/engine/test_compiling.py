"""A grammar that takes long keeps nobody else from anything."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lmapps.engine import compiling
from lmapps.engine.compiling import in_time, settings_in_time
from lmapps.engine.turns import subdivided
from lmapps.errors import Busy, DecodingError


@pytest.fixture(autouse=True)
def other_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(compiling, "MOST_WAITING", 4)
    compiling._desk.cache_clear()
    yield
    compiling._desk.cache_clear()


class Stuck:
    """Work that does not come back before it may."""

    def __init__(self) -> None:
        self.may_end, self.begun = threading.Event(), 0

    def __call__(self) -> None:
        self.begun += 1
        assert self.may_end.wait(20)

    async def on(self, *users: str | None) -> list[asyncio.Task[None]]:
        """Work that is under way for each of them."""
        tasks, before = [asyncio.create_task(in_time(self, user)) for user in users], self.begun
        while self.begun < before + len(users):
            await asyncio.sleep(0)
        return tasks


def waiting(count: int, work: Callable[[], Any], user: str | None) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(in_time(work, user)) for _ in range(count)]


def test_what_takes_too_long_is_given_up_and_who_waits_behind_it_is_told_to_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compiling, "LIMIT", 0.05)
    stuck, ran = Stuck(), []

    async def all_stuck() -> tuple[list[Any], list[Any]]:
        held = await stuck.on(None, None)
        behind = waiting(4, lambda: ran.append(1), None)
        await asyncio.sleep(0)
        with pytest.raises(Busy, match="4 regexes and schemas are waiting already"):
            await in_time(stuck)
        assert await asyncio.to_thread(lambda: "free") == "free"
        told = await asyncio.gather(*held, *behind, return_exceptions=True)
        return told[:2], told[2:]

    held, behind = asyncio.run(all_stuck())
    for error in held:
        assert isinstance(error, DecodingError) and "not read within 0.05 seconds" in str(error)
    for error in behind:
        assert isinstance(error, Busy) and "not begun within 0.05 seconds" in str(error)
    stuck.may_end.set()
    monkeypatch.setattr(compiling, "LIMIT", 20)
    assert asyncio.run(in_time(lambda: "there")) == "there" and not ran, "nobody waited for them"
    with pytest.raises(ValueError, match="x"):
        asyncio.run(in_time(lambda: int("x")))


def test_whoever_floods_it_keeps_nobody_else_waiting() -> None:
    stuck = Stuck()

    async def flood() -> None:
        held = await stuck.on(subdivided("flood", "one"))
        behind = waiting(2, stuck, subdivided("flood", "another"))
        await asyncio.sleep(0)
        with pytest.raises(Busy, match="2 of your regexes and schemas are waiting already"):
            await in_time(stuck, "flood")
        assert await in_time(lambda: "read", "person") == "read"
        assert stuck.begun == 1, "of one owner's, one at a time"
        behind[0].cancel()
        await asyncio.wait(behind[:1])
        behind += waiting(1, stuck, "flood")
        stuck.may_end.set()
        await asyncio.gather(*held, *behind[1:])

    asyncio.run(flood())
    assert stuck.begun == 3, "who left leaves a place to others"


def test_settings_that_hold_a_reply_to_nothing_are_read_at_once() -> None:
    here = threading.current_thread()

    def thread(**given: Any) -> threading.Thread:
        return asyncio.run(settings_in_time(threading.current_thread, given))

    assert thread(regex=None, json_schema=None, response_format={"type": "text"}, seed=1) is here
    for given in ({"regex": ""}, {"response_format": {"type": "json_object"}}):
        assert thread(**given) is not here
