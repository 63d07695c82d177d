"""What the engine's thread tells, once a step, to readers who may be behind."""

from __future__ import annotations

import asyncio

import pytest

from lmapps.engine.mail import Box, Mail
from lmapps.engine.request import Delta
from lmapps.engine.sampling import Logprob


def test_a_reader_who_is_behind_gets_all_that_came_since_in_one_piece() -> None:
    async def read() -> list[Delta]:
        mail, box = Mail(), Box()
        deliver = mail.to(box)
        deliver(Delta(position=2))
        mail.send()
        got = [await box.get()]
        deliver(Delta(read=(3, 4)))
        mail.send()
        deliver(Delta("a", (1,), logprobs=(Logprob(1, -0.5),), reused=7))
        deliver(Delta("b", (2,), "stop", logprobs=(Logprob(2, -0.1),)))
        mail.send()
        return [*got, await box.get()]

    first, rest = asyncio.run(read())
    assert first == Delta(position=2)
    logprobs = (Logprob(1, -0.5), Logprob(2, -0.1))
    assert rest == Delta("ab", (1, 2), "stop", read=(3, 4), logprobs=logprobs, reused=7)


def test_nothing_comes_before_it_is_sent() -> None:
    async def read() -> Delta:
        mail, box = Mail(), Box()
        mail.to(box)(Delta("a", (1,)))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(box.get(), 0.01)
        mail.send()
        return await box.get()

    assert asyncio.run(read()).text == "a"


def test_who_writes_to_a_closed_loop_hears_of_it() -> None:
    async def made() -> Box:
        return Box()

    mail = Mail()
    deliver = mail.to(asyncio.run(made()))
    with pytest.raises(RuntimeError, match="closed"):
        deliver(Delta("a", (1,)))
    mail.send()
