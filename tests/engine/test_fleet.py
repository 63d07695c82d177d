"""Several servers of one model: the least busy is asked, and one that is gone is left out."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from lmapps import Decoding
from lmapps.engine.backends import openai as remote
from lmapps.engine.backends.fleet import LONGEST_REST, SLACK, Fleet, Server
from lmapps.engine.backends.openai import OpenAIBackend
from lmapps.engine.backends.source import Source, open_backend, source_of
from lmapps.errors import Busy, ModelServerError, SettingsError

HELLO = [{"role": "user", "content": "Hello"}]
NOBODY = "http://127.0.0.1:9/v1"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def names(fleet: Fleet, user: str | None = None) -> list[str]:
    return [server.url for server in fleet.in_order(user)]


def test_whoever_is_nobody_gets_the_least_busy_server() -> None:
    fleet = Fleet(["a", "b", "c"])
    for server, running in zip(fleet.servers, (2, 0, 1), strict=True):
        server.running = running
    assert names(fleet) == ["b", "c", "a"]


def test_a_person_stays_with_a_server_unless_it_is_much_busier() -> None:
    fleet = Fleet(["a", "b"])
    people = [f"user {number}" for number in range(200)]
    first = {person: next(fleet.in_order(person)) for person in people}
    assert 60 < sum(server.url == "a" for server in first.values()) < 140, "they spread"
    (at_a,) = {server.url: server for server in first.values() if server.url == "a"}.values()
    at_a.running = SLACK
    assert {person: next(fleet.in_order(person)) for person in people} == first
    at_a.running = SLACK + 1
    assert {next(fleet.in_order(person)).url for person in people} == {"b"}


def test_without_a_server_only_its_people_move() -> None:
    clock = Clock()
    fleet = Fleet(["a", "b", "c"], clock)
    people = [f"user {number}" for number in range(100)]
    before = {person: next(fleet.in_order(person)).url for person in people}
    fleet.failed(fleet.servers[0])
    after = {person: next(fleet.in_order(person)).url for person in people}
    assert all(after[person] == url for person, url in before.items() if url != "a")
    assert {after[person] for person, url in before.items() if url == "a"} == {"b", "c"}


def test_a_server_that_failed_rests_longer_each_time_and_one_request_looks_for_it() -> None:
    clock = Clock()
    fleet = Fleet(["a", "b"], clock)
    a, b = fleet.servers
    b.running = 9
    fleet.failed(a)
    assert names(fleet) == ["b", "a"] and len(fleet.resting) == 1, "the last resort"
    clock.now += 1.25
    assert len(fleet.resting) == 0
    assert names(fleet) == ["a", "b"], "somebody finds out"
    assert names(fleet) == ["b", "a"], "and nobody else waits for it meanwhile"
    rests = []
    for _ in range(9):
        fleet.failed(a)
        rests.append(a.rests_until - clock.now)
    assert rests == sorted(rests) and rests[0] == 2.0 and rests[-1] == LONGEST_REST
    fleet.answered(a)
    assert names(fleet) == ["a", "b"] and a.failures == 0


def test_several_places_of_one_model_are_written_with_commas() -> None:
    source = source_of("big=http://one:1/v1,http://two:2/v1#m")
    assert source.is_url and source.name == "big"
    assert source_of("http://one:1/v1,http://two:2/v1#m").name == "m"
    assert source_of("http://one:1/v1,http://two:2/v1").name == "one:1"
    with pytest.raises(SettingsError, match="two holds a password"):
        source_of("http://one:1/v1,http://me:secret@two:2/v1")
    with pytest.raises(SettingsError, match="is no URL"):
        source_of("http://one:1/v1,http:///v1")


class Played:
    """A server that answers as it is told to."""

    def __init__(self, port: int = 0) -> None:
        self.app, self.asked, self.status = FastAPI(), 0, 200
        self.pieces = ["Hel", "lo"]
        self.breaks_off = False
        self.models = [{"id": "m", "max_model_len": 512}]
        self.models_status = 200
        self.code = "ServerError"
        self.app.get("/v1/models")(self._models)
        self.app.post("/v1/chat/completions")(self._chat)
        import uvicorn

        self.server = uvicorn.Server(uvicorn.Config(self.app, port=port, log_level="critical"))
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"

    async def _models(self) -> Response:
        return JSONResponse({"data": self.models}, self.models_status)

    async def _chat(self, request: Request) -> Response:
        self.asked += 1
        if self.status != 200:
            error = {"message": "not now", "type": "server_error", "code": self.code}
            return JSONResponse({"error": error}, self.status)
        return StreamingResponse(self._stream())

    async def _stream(self) -> AsyncIterator[str]:
        for piece in self.pieces:
            yield _line({"choices": [{"delta": {"content": piece}}]})
        if self.breaks_off:
            raise RuntimeError("the process is killed")
        if self.code == "ShuttingDown":
            yield _line({"error": {"message": "it ends", "code": self.code}})
        yield _line({"choices": [{"delta": {}, "finish_reason": "stop"}]})
        yield "data: [DONE]\n\n"

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)


def _line(value: Any) -> str:
    return f"data: {json.dumps(value)}\n\n"


@pytest.fixture
def two() -> Iterator[tuple[Played, Played]]:
    both = Played(), Played()
    yield both
    for server in both:
        server.stop()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.001)


def connect(two: tuple[Played, Played]) -> OpenAIBackend:
    """Both, of which the first one is asked first, being the less busy one."""
    far = OpenAIBackend.connect("far", f"{two[0].url},{two[1].url}")
    far.fleet.servers[1].running = 1
    return far


def ask(far: Any, user: str | None = None) -> str:
    async def reply() -> str:
        async with asyncio.timeout(20):
            return str((await far.complete(far.render(HELLO), Decoding(), user)).text)

    return asyncio.run(reply())


def test_what_one_server_refuses_the_other_answers_without_a_wait(
    two: tuple[Played, Played], monkeypatch: pytest.MonkeyPatch
) -> None:
    far = connect(two)
    monkeypatch.setattr(remote, "FIRST_WAIT", 1e9)  # nobody has to wait
    for status in (429, 500, 503):
        two[0].status = status
        for _ in range(4):
            assert ask(far) == "Hello"
    assert two[1].asked == 12 and far.counts.finished["stop"] == 12
    assert len(far.fleet.resting) == 0, "a server that is busy is there"


def test_when_all_refuse_the_last_ones_word_is_told(two: tuple[Played, Played]) -> None:
    far = OpenAIBackend.connect("far", f"{two[0].url},{two[1].url}")
    two[0].status = two[1].status = 429
    with pytest.raises(Busy, match="not now"):
        ask(far)
    assert two[0].asked == two[1].asked == remote.RETRIES + 1


def test_a_server_that_is_gone_is_left_out_and_used_again_when_it_is_back(
    two: tuple[Played, Played],
) -> None:
    far = connect(two)
    clock = Clock()
    far.fleet._clock = clock
    two[0].stop()
    assert [ask(far) for _ in range(6)] == ["Hello"] * 6
    assert len(far.fleet.resting) == 1 and far.why_not_ready() is None
    back = Played(two[0].port)
    far.fleet.servers[1].running = 5
    assert ask(far) == "Hello" and back.asked == 0, "it rests"
    clock.now += LONGEST_REST
    assert ask(far) == "Hello" and back.asked == 1 and len(far.fleet.resting) == 0
    back.stop()


def test_a_server_that_ends_hands_its_queue_to_the_others(two: tuple[Played, Played]) -> None:
    far = connect(two)
    two[0].code, two[0].pieces = "ShuttingDown", []
    assert [ask(far) for _ in range(4)] == ["Hello"] * 4
    assert two[0].asked == two[1].asked == 4


def test_a_reply_that_breaks_off_is_told_and_its_server_rests(two: tuple[Played, Played]) -> None:
    far = connect(two)
    two[0].breaks_off = two[1].breaks_off = True
    with pytest.raises(ModelServerError, match=r"the reply broke off, ask again: .*127\.0\.0\.1"):
        ask(far)
    assert len(far.fleet.resting) == 1 and (two[0].asked, two[1].asked) == (1, 0)
    assert [server.running for server in far.fleet.servers] == [0, 1]


def test_the_place_of_a_model_is_that_of_all_its_servers(two: tuple[Played, Played]) -> None:
    far: Any = open_backend(Source("far", f"{two[0].url},{two[1].url}"))
    assert str(far.about) == f"m at {two[0].url}, {two[1].url}, 512 tokens of context"
    assert far.servers_up == {two[0].url: True, two[1].url: True}


def test_it_starts_as_long_as_one_of_them_is_there(two: tuple[Played, Played]) -> None:
    two[1].models = [{"id": "m", "max_model_len": 256}]
    far = OpenAIBackend.connect("far", f"{NOBODY},{two[0].url},{two[1].url}")
    assert (far.model, far.context, len(far.fleet.resting)) == ("m", 256, 1)
    with pytest.raises(ModelServerError, match="does not answer"):
        OpenAIBackend.connect("far", f"{NOBODY},http://127.0.0.1:10/v1")
    two[1].models = [{"id": "other"}]
    with pytest.raises(ModelServerError, match="has no model 'm'; it has 'other'"):
        OpenAIBackend.connect("far", f"{two[0].url},{two[1].url}")


def test_it_starts_where_one_of_them_is_not_ready_yet(two: tuple[Played, Played]) -> None:
    for two[0].models_status in (503, 429, 502, 500):
        far = OpenAIBackend.connect("far", f"{two[0].url},{two[1].url}")
        assert far.model == "m" and far.servers_up == {two[0].url: False, two[1].url: True}
    two[1].models_status = 503
    with pytest.raises(Busy, match="the model 'far' says"):
        OpenAIBackend.connect("far", f"{two[0].url},{two[1].url}")
    two[0].models_status = 401
    with pytest.raises(ModelServerError, match="is its key set"):
        OpenAIBackend.connect("far", f"{two[1].url},{two[0].url}")


def test_a_model_none_of_whose_servers_answers_is_not_ready() -> None:
    far = OpenAIBackend("far", f"{NOBODY},http://127.0.0.1:10/v1", "m")
    assert far.why_not_ready() is None, "nobody has tried yet"
    with pytest.raises(ModelServerError, match="does not answer"):
        ask(far)
    assert "is not reached at http://127.0.0.1:9/v1, http://127" in str(far.why_not_ready())
    assert isinstance(far.fleet.servers[0], Server)
