"""The same request, asked in several ways at once -> what there is to see of all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from lmapps.engine.application import Clear, Done, Event, Progress, Text, Waiting
from lmapps.server.page.languages import word
from lmapps.server.page.live import ENDINGS, warning

REFRESH_SECONDS = 0.1
"""All sides together are shown anew at most so often."""

Ask = Callable[[], AsyncGenerator[Event, None]]


@dataclass(frozen=True)
class Side:
    """One way that the request was asked."""

    text: str = ""
    value: Any = None
    """What the whole text is worth, at the end."""
    status: str = ""
    first: float | None = None
    """Seconds until its first text, waiting and loading included."""
    per_second: float | None = None
    """Tokens a second after the first one; None where that cannot be said."""
    done: bool = False
    failed: bool = False


async def side_by_side(asks: Sequence[Ask]) -> AsyncGenerator[tuple[Side, ...], None]:
    """All of them together; the last news has every side `done`. Closing it ends what is under
    way, and an error of one side is a line on that side."""
    sides = [Side(status=word("Reading ...")) for _ in asks]
    news = asyncio.Event()

    def show(number: int, side: Side) -> None:
        sides[number] = side
        news.set()

    tasks = [asyncio.create_task(_follow(ask, n, sides, show)) for n, ask in enumerate(asks)]
    try:
        told = tuple(sides)
        yield told
        while not all(side.done for side in told):  # what was told: they go on meanwhile
            await news.wait()
            await asyncio.sleep(REFRESH_SECONDS)
            news.clear()
            told = tuple(sides)
            yield told
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # their slots are free again


async def _follow(
    ask: Ask, number: int, sides: Sequence[Side], show: Callable[[int, Side], None]
) -> None:
    """One side, from its first event to its last."""
    asked, began = time.monotonic(), 0.0
    try:
        async with aclosing(ask()) as events:
            async for event in events:
                side = sides[number]
                if isinstance(event, Text) and not began:
                    began = time.monotonic()
                    side = replace(side, first=began - asked)
                if isinstance(event, Done):
                    side = replace(side, per_second=_speed(event, began))
                show(number, _after(side, event))
    except Exception as error:  # the other sides go on, and the tab is told
        show(number, replace(sides[number], status=warning(error), done=True, failed=True))


def _speed(done: Done, began: float) -> float | None:
    """Of the tokens after the first, which began the clock."""
    seconds = time.monotonic() - began
    if not began or done.completion_tokens < 2 or seconds <= 0:
        return None
    return (done.completion_tokens - 1) / seconds


def _after(side: Side, event: Event) -> Side:
    match event:
        case Text(text):
            return replace(side, text=side.text + text, status="")
        case Clear():
            return replace(side, text="", status="")
        case Waiting(position):
            told = word("Waiting: number {position} in the queue.", position=position)
            return replace(side, status=told)
        case Progress(done, total):
            told = word("Reading in parts: {done} of {total} done.", done=done, total=total)
            return replace(side, status=told)
        case Done(reply, value, finish):
            ending = ENDINGS.get(finish, "")
            status = word(ending) if ending else ""
            return replace(side, text=reply, value=value, status=status, done=True)
    return side
