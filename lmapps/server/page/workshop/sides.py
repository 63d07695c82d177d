"""The same request, asked in several ways at once -> what there is to see of all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from lmapps.server.page.languages import word
from lmapps.server.page.live import Ask, View, at_first, grown

REFRESH_SECONDS = 0.1
"""All sides together are shown anew at most so often."""


async def side_by_side(
    asks: Sequence[Ask], say: Callable[..., Any] = word
) -> AsyncGenerator[tuple[View, ...], None]:
    """All of them together; the last news has every side `done`. Closing it ends what is under
    way, and an error of one side is a line on that side.

    say  gives a plugin's own words in the visitor's language
    """
    sides = [at_first() for _ in asks]
    news = asyncio.Event()

    async def follow(number: int, ask: Ask) -> None:
        async with aclosing(grown(ask, say)) as views:
            async for view in views:
                sides[number] = view
                news.set()

    tasks = [asyncio.create_task(follow(number, ask)) for number, ask in enumerate(asks)]
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
