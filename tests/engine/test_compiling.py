"""A grammar that takes long keeps nobody else from anything."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from lmapps.engine import compiling
from lmapps.engine.compiling import in_time
from lmapps.errors import Busy, DecodingError


def test_what_takes_too_long_is_given_up_and_the_shared_threads_are_free(
    monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
) -> None:
    compiling._jobs.cache_clear()
    monkeypatch.setattr(compiling, "LIMIT", 0.05)
    monkeypatch.setattr(compiling, "MOST_WAITING", 3)
    gate, begun, ran = threading.Event(), [], []

    def hang() -> None:
        begun.append(1)
        gate.wait(20)

    async def all_stuck() -> list[Any]:
        stuck = [asyncio.create_task(in_time(hang)) for _ in range(2)]
        while len(begun) < 2:
            await asyncio.sleep(0)
        waiting = [asyncio.create_task(in_time(lambda: ran.append(1))) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Busy, match="3 regexes and schemas are waiting already"):
            await in_time(hang)
        assert await asyncio.to_thread(lambda: "free") == "free"
        return list(await asyncio.gather(*stuck, *waiting, return_exceptions=True))

    for error in asyncio.run(all_stuck()):
        assert isinstance(error, DecodingError) and "not read within 0.05 seconds" in str(error)
    gate.set()
    wait_until(lambda: compiling._jobs().empty())
    monkeypatch.setattr(compiling, "LIMIT", 20)
    assert asyncio.run(in_time(lambda: "there")) == "there" and not ran, "nobody waited for them"
    with pytest.raises(ValueError, match="x"):
        asyncio.run(in_time(lambda: int("x")))
    compiling._jobs.cache_clear()
