"""What the engine's thread tells, once a step, to readers who may be behind."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from lmapps.engine.mail import PIECES_A_SECOND, PLACE_SECONDS, Box, Mail
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


def test_where_many_read_each_gets_several_tokens_in_one_piece() -> None:
    """The beginning and the end come at once, whoever else reads; nothing is lost."""
    now = 0.0

    async def read() -> list[list[Delta]]:
        nonlocal now
        mail = Mail(lambda: now)
        boxes = [Box() for _ in range(PIECES_A_SECOND // 10)]  # a piece in a tenth of a second
        deliver = [mail.to(box) for box in boxes]
        reading = [asyncio.create_task(_all_of(box)) for box in boxes]
        for number in range(20):  # tokens, one in 40 ms
            now = number * 0.04
            for box in deliver:
                box(Delta(str(number % 10), (number,), "length" if number == 19 else None))
            mail.send()
            await asyncio.sleep(0)  # it arrives
            await asyncio.sleep(0)  # it is read
        return await asyncio.gather(*reading)

    for pieces in asyncio.run(read()):
        assert pieces[0].ids == (0,)
        assert [len(piece.ids) for piece in pieces[1:-1]] == [3] * 6
        assert "".join(piece.text for piece in pieces) == "0123456789" * 2
        assert pieces[-1].finish == "length"


async def _all_of(box: Box) -> list[Delta]:
    pieces = [await box.get()]
    while pieces[-1].finish is None:
        pieces.append(await box.get())
    return pieces


def test_who_reads_alone_gets_every_token() -> None:
    async def read() -> list[int]:
        now = 0.0
        mail, box = Mail(lambda: now), Box()
        deliver, counts = mail.to(box), []
        for number in range(5):
            now += 1 / PIECES_A_SECOND
            deliver(Delta("a", (number,)))
            mail.send()
            counts.append(len((await box.get()).ids))
        return counts

    assert asyncio.run(read()) == [1] * 5


def test_who_waits_is_told_the_newest_place_from_time_to_time() -> None:
    """However often it changes; the first one, and that the wait is over, at once."""
    now = 0.0

    async def read() -> list[tuple[float, Delta]]:
        nonlocal now
        mail, box = Mail(lambda: now), Box()
        deliver, got = mail.to(box), list[tuple[float, Delta]]()
        for number in range(11):
            now = number * PLACE_SECONDS / 5
            deliver(Delta("a", (1,)) if number == 7 else Delta(position=11 - number))
            mail.send()
            await asyncio.sleep(0)
            with suppress(TimeoutError):
                got.append((number, await asyncio.wait_for(box.get(), 0.001)))
        return got

    first, second, begun, *_ = asyncio.run(read())
    assert first == (0, Delta(position=11)) and second == (5, Delta(position=6))
    assert begun[0] == 7 and begun[1].text == "a"


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
