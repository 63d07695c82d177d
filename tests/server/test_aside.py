"""A database that is slow: whoever does not wait for it goes on, and what is kept has its order."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from lmapps.errors import StorageError
from lmapps.server.page.chat import saved as saving
from lmapps.server.page.chat.saved import saved
from lmapps.server.page.live import View
from lmapps.server.store.aside import InOrder, Together, aside
from lmapps.server.store.made import Made

PATIENCE = 20
"""Seconds after which a test that hangs has failed."""


class Slow:
    """Keeps a reply once `go` is set, and notes what it kept."""

    def __init__(self) -> None:
        self.go, self.asked = threading.Event(), threading.Event()
        self.kept: list[Any] = []
        self.failing = False

    def _wait(self) -> None:
        self.asked.set()
        assert self.go.wait(PATIENCE), "the event loop waits for the database"
        if self.failing:
            raise StorageError("the database is gone")

    def begin(self) -> None:
        self._wait()
        self.kept.append("begin")

    def grow(self, text: str, finish: str | None, made: Made) -> None:
        self._wait()
        self.kept.append((text, finish))


async def reply(pieces: list[str], after: Any = None) -> AsyncGenerator[View, None]:
    text = ""
    for piece in pieces:
        text += piece
        yield View(text)
        await asyncio.sleep(0)
        if after is not None:
            await after(text)
    yield View(text, done=True)


def test_a_slow_database_holds_up_nobody_elses_stream() -> None:
    slow, quick = Slow(), Slow()
    quick.go.set()

    async def both() -> None:
        waiting = asyncio.create_task(taken(saved(reply(["a"]), slow, lambda _: Made())))
        while not slow.asked.is_set():
            await asyncio.sleep(0.001)
        views = await taken(saved(reply(list("bcd")), quick, lambda _: Made()))
        assert views[-1].done and not waiting.done(), "the other one is still kept"
        slow.go.set()
        assert (await waiting)[-1].done

    asyncio.run(both())
    assert quick.kept == ["begin", ("bcd", "stop")]
    assert slow.kept[0] == "begin" and slow.kept[-1] == ("a", "stop")


async def taken(stream: AsyncGenerator[View, None]) -> list[View]:
    return [view async for view in stream]


def test_a_reply_goes_on_while_it_is_kept_and_its_last_word_is_kept_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(saving, "SAVE_SECONDS", 0.0)
    slow = Slow()
    slow.go.set()

    async def shut_after_the_first(text: str) -> None:
        if text == "a":
            slow.go.clear()
            slow.asked.clear()
        elif text == "abcde":
            slow.go.set()

    views = asyncio.run(taken(saved(reply(list("abcde"), shut_after_the_first), slow, _nothing)))
    assert [view.text for view in views] == ["a", "ab", "abc", "abcd", "abcde", "abcde"]
    texts = [one[0] for one in slow.kept[1:]]
    assert texts == sorted(texts, key=len) and slow.kept[-1] == ("abcde", "stop")
    assert len(slow.kept) < 7, "what comes while one is being kept is kept with the next"


def _nothing(view: View) -> Made:
    return Made()


def test_whoever_leaves_while_it_is_being_kept_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(saving, "SAVE_SECONDS", 0.0)
    slow = Slow()

    seen = list[str]()

    async def leave() -> None:
        async def read() -> None:
            async with aclosing(saved(reply(["first ", "words"]), slow, _nothing)) as views:
                async for view in views:
                    seen.append(view.text)
                    await asyncio.sleep(0.002)

        reading = asyncio.create_task(read())
        while not slow.asked.is_set():
            await asyncio.sleep(0.001)
        reading.cancel()  # Stop, in the middle of keeping its beginning
        await asyncio.sleep(0.01)
        slow.go.set()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await asyncio.sleep(0)

    asyncio.run(leave())
    assert slow.kept == ["begin", (seen[-1], "cancelled")]


def test_a_failure_in_between_is_made_up_for_and_one_at_the_end_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(saving, "SAVE_SECONDS", 0.0)
    slow = Slow()
    slow.go.set()

    async def fail_for_a_while(text: str) -> None:
        slow.failing = text in ("a", "ab")

    views = asyncio.run(taken(saved(reply(list("abcd"), fail_for_a_while), slow, _nothing)))
    assert views[-1].done and slow.kept[-1] == ("abcd", "stop")

    async def fail_from_now_on(text: str) -> None:
        slow.failing = True

    with pytest.raises(StorageError, match="is gone"):
        slow.failing = False
        asyncio.run(taken(saved(reply(list("ab"), fail_from_now_on), slow, _nothing)))


def test_a_call_aside_knows_whose_request_it_is_for() -> None:
    from lmapps.server.gate.log import REQUEST

    async def asked() -> str:
        REQUEST.set("r1")
        return await aside(REQUEST.get)

    assert asyncio.run(asked()) == "r1"


def test_calls_in_order_come_one_after_the_other_though_the_first_is_the_slowest() -> None:
    came, go = list[int](), threading.Event()

    def first() -> None:
        assert go.wait(PATIENCE)
        came.append(1)

    async def two() -> None:
        order = InOrder()
        order.begin(first)
        second = asyncio.create_task(order.end(lambda: came.append(2)))
        await asyncio.sleep(0.02)
        assert came == [] and order.is_busy
        go.set()
        await second
        assert came == [1, 2] and not order.is_busy

    asyncio.run(two())


def test_calls_that_may_wait_are_made_together_each_in_its_order() -> None:
    came, seen = list[tuple[str, int]](), threading.Event()

    def note(what: str) -> None:
        assert what != "new" or seen.wait(PATIENCE)
        came.append((what, threading.get_ident()))

    def fail() -> None:
        raise StorageError("the database is gone")

    async def several() -> None:
        together, one, other, dropped, failing = Together(), *(InOrder() for _ in range(4))
        one.begin(lambda: note("begin"))
        await one.end(lambda: note("begun"))
        together.put(failing, fail, 0.01)
        for order, what in ((one, "old"), (other, "other"), (dropped, "dropped"), (one, "new")):
            together.put(order, lambda what=what: note(what), 0.01)  # type: ignore[misc]
        together.drop(dropped)
        while not one.is_busy:
            await asyncio.sleep(0.001)
        seen.set()
        await one.end(lambda: note("end"))
        assert not other.is_busy

    asyncio.run(asyncio.wait_for(several(), PATIENCE))
    assert [what for what, _ in came] == ["begin", "begun", "new", "other", "end"]
    assert came[2][1] == came[3][1], "in one thread"


def test_who_is_busy_is_made_up_for_later() -> None:
    came, go = list[str](), threading.Event()

    def slow() -> None:
        assert go.wait(PATIENCE)
        came.append("slow")

    async def two() -> None:
        together, busy, free = Together(), InOrder(), InOrder()
        busy.begin(slow)
        together.put(busy, lambda: came.append("busy"), 0.001)
        together.put(free, lambda: came.append("free"), 0.001)
        while "free" not in came:
            await asyncio.sleep(0.001)
        go.set()
        while "busy" not in came:
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(two(), PATIENCE))
    assert came == ["free", "slow", "busy"]
